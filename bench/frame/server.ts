// Servers of the benchmarks, in processes of their own.
import { execFileSync, fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'

export interface Server { child: ChildProcess, url: string }

/** The core that is reserved for servers; undefined if they share all cores. */
let ownCore: number | undefined

/**
 * Reserves a core for the servers, and moves this process and its other children to the remaining ones, because in
 * production Redis and the load run on other machines. It needs Linux and two cores; otherwise nothing changes.
 */
export function giveServersACore (): void {
  const last = availableParallelism() - 1
  if (last === 0) return
  try {
    execFileSync('taskset', ['-a', '-c', '-p', `0-${last - 1}`, String(process.pid)], { stdio: 'ignore' })
    ownCore = last
  } catch {
    console.log('no taskset: the servers share their cores with Redis and the load')
  }
}

/** @param file - a server of the folder `bench`, which sends its address when it listens */
export async function startServer (file: string, args: string[]): Promise<Server> {
  const execArgv = ['--import', 'tsx']
  const options = ownCore === undefined
    ? { execArgv }
    : { execPath: 'taskset', execArgv: ['-c', String(ownCore), process.execPath, ...execArgv] }
  const child = fork(new URL(`../${file}`, import.meta.url), args, options)
  const ended = once(child, 'exit').then(
    ([code]) => { throw new Error(`${file} ${args.join(' ')} ended with ${code}`) }
  )
  const [url] = await Promise.race([once(child, 'message'), ended])
  ended.catch(() => {})
  return { child, url }
}

export async function stopServers (servers: Iterable<Server>): Promise<void> {
  for (const { child } of servers) {
    const ended = once(child, 'exit')
    child.kill()
    await ended
  }
}

/** Returns the CPU time of a server in microseconds. */
export async function cpuOf ({ child }: Server): Promise<number> {
  child.send('cpu')
  const [{ cpu }] = await once(child, 'message')
  return cpu
}
