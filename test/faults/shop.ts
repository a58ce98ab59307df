// Two instances of one app in their own processes, and the source that they read: versioned values in this process.
import { fork, type ChildProcess } from 'node:child_process'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export const INSTANCES = 2
/** How long the source takes to respond. */
export const SOURCE_MS = 5

export interface Instance {
  url: string
  /** Sends SIGKILL. */
  kill (): void
  /** Restarts it on the same port. */
  start (): Promise<void>
  /** The figures that would grow with a leak. */
  measure (): Promise<Measured>
}

export interface Measured {
  /** Bytes after a garbage collection. */
  heap: number
  resources: number
  listeners: number
}

export interface Shop {
  instances: Instance[]
  /** Events that must never happen: unhandled rejections, uncaught exceptions, 500s and unexpected exits. */
  problems: string[]
  /** How often two holders were in the locked section at the same time. */
  readonly crowded: number
  close (): void
}

export async function startShop (connection: RedisPluginOptions): Promise<Shop> {
  const source = await startSource()
  const problems: string[] = []
  const instances = await Promise.all(Array.from({ length: INSTANCES }, () => startInstance(connection, source.url, problems)))
  return {
    instances,
    problems,
    get crowded () { return source.crowded() },
    close () {
      for (const instance of instances) instance.kill()
      source.close()
    }
  }
}

async function startInstance (connection: RedisPluginOptions, source: string, problems: string[]): Promise<Instance> {
  let child: ChildProcess | undefined
  let port = 0
  const instance: Instance = {
    get url () { return `http://127.0.0.1:${port}` },
    kill () {
      const killed = child
      child = undefined
      killed?.kill('SIGKILL')
    },
    measure: () => new Promise(resolve => {
      const onMessage = ({ measured }: { measured?: Measured }) => {
        if (measured === undefined) return
        child?.off('message', onMessage)
        resolve(measured)
      }
      child?.on('message', onMessage)
      child?.send('measure')
    }),
    async start () {
      const started = fork(new URL('../fixtures/shop-instance.ts', import.meta.url), [JSON.stringify({ connection, source, port })], { execArgv: ['--import', 'tsx', '--expose-gc'] })
      child = started
      port = await new Promise((resolve, reject) => {
        started.on('message', (message: { port?: number, problem?: string }) => {
          if (message.port !== undefined) resolve(message.port)
          if (message.problem !== undefined) problems.push(message.problem)
        })
        started.on('exit', code => {
          if (child === started) problems.push(`an instance ended by itself (${code})`)
          reject(new Error('it ended before it was ready'))
        })
      })
    }
  }
  await instance.start()
  return instance
}

async function startSource (): Promise<{ url: string, crowded: () => number, close (): void }> {
  const versions = new Map<string, number>()
  let [inside, crowded, newest] = [0, 0, 0]
  async function section (token: number): Promise<void> {
    // The fencing token identifies an old holder.
    if (inside++ > 0 || token <= newest) crowded++
    newest = Math.max(newest, token)
    await sleep(4 * SOURCE_MS)
    inside--
  }
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://source')
    const id = pathname.slice(1)
    if (request.method === 'PUT') versions.set(id, Number(searchParams.get('version')))
    const body = JSON.stringify({ id, version: versions.get(id) ?? 0 })
    const work = id === 'section' ? section(Number(searchParams.get('token'))) : sleep(SOURCE_MS)
    work.then(() => response.setHeader('content-type', 'application/json').end(body), () => {})
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    crowded: () => crowded,
    close: () => {
      server.closeAllConnections()
      server.close()
    }
  }
}
