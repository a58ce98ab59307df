import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { until } from '../app/until.js'
import { TYPESCRIPT } from '../compiled/exec-argv.js'
import { freePort } from '../../../tools/servers/free-port.js'
import { isListening } from '../servers/inspect.js'

export interface ExampleProcess {
  url: string
  /** Ends the process with a signal. @returns its exit code; null if a signal ended it */
  stop (signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null>
}

/** Starts `examples/guides/<name>.ts` as a process of its own; resolves when it listens. It is killed with the test. */
export async function startExample (t: Test, name: string, env: Record<string, string>): Promise<ExampleProcess> {
  const port = await freePort()
  const file = fileURLToPath(new URL(`../../../examples/guides/${name}.ts`, import.meta.url))
  const child = spawn(process.execPath, [...TYPESCRIPT, file], { env: { ...process.env, LOG_LEVEL: 'silent', ...env, PORT: String(port) }, stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => { errors += text })
  t.teardown(() => { child.kill('SIGKILL') })
  const exited = once(child, 'exit')
  await until(`examples/guides/${name}.ts listens`, async () => {
    if (child.exitCode !== null) throw new Error(errors)
    return await isListening(port)
  }, 30_000)
  return {
    url: `http://127.0.0.1:${port}`,
    async stop (signal) {
      child.kill(signal)
      await exited
      return child.exitCode
    }
  }
}
