import { stopAll } from '../../../tools/servers/registry.js'

/** How long a test file may go on after its last test. */
const GRACE_MS = 30_000

interface Handle {
  constructor: { name: string }
  remotePort?: number
  spawnfile?: string
}

/** Stops all servers. Where the process does not end then, it says what keeps it and ends with a failure, as tap would wait for minutes. */
export async function endFile (): Promise<void> {
  setTimeout(() => {
    const handles = Reflect.apply(Reflect.get(process, '_getActiveHandles') as () => Handle[], process, [])
    const names = handles.map(({ constructor: { name }, remotePort = '', spawnfile = '' }) => [name, remotePort, spawnfile].join(' ').trim())
    console.error(`The tests have ended, but the process has not. Open: ${[...names, ...process.getActiveResourcesInfo()].join(', ')}`)
    process.exit(1)
  }, GRACE_MS).unref()
  await stopAll()
}
