// The servers that test files share: each worker of the test run has its own set, which is started when a file first requests it, and emptied for each
// later file. test/run.ts provides them over a socket; see shared.ts for the client.
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { startCluster } from './redis-cluster.js'
import type { RedisServer } from './redis-server.js'
import { startRedis } from './redis-server.js'
import { startSentinel } from './redis-sentinel.js'
import { scratchDir } from '../../../tools/servers/scratch.js'

export type SharedKind = 'redis' | 'cluster' | 'sentinel'

export interface SharedAddress {
  /** `host:port` of each server that accepts writes, then of the others. */
  servers: string[]
  /** The name of the Sentinel group, with its sentinels. */
  sentinels?: string[]
  name?: string
}

interface Shared {
  address: SharedAddress
  masters: RedisServer[]
  file: string
}

const starts: Record<SharedKind, () => Promise<Omit<Shared, 'file'>>> = {
  async redis () {
    const server = await startRedis()
    return { address: { servers: [addressOf(server)] }, masters: [server] }
  },
  async cluster () {
    const { nodes } = await startCluster()
    const servers = nodes.map(({ server }) => server)
    return { address: { servers: servers.map(addressOf) }, masters: servers.slice(0, servers.length / 2) }
  },
  async sentinel () {
    const { name, servers, sentinels } = await startSentinel()
    return { address: { name, servers: servers.map(addressOf), sentinels: sentinels.map(({ server }) => addressOf(server)) }, masters: servers.slice(0, 1) }
  }
}

/** @returns the path of the socket, and a function that stops serving (the registry stops the servers) */
export async function servePool (): Promise<{ path: string, close: () => void }> {
  const workers = new Map<string, Promise<Shared>>()
  const path = join(scratchDir(), 'pool.sock')

  async function lend (kind: SharedKind, worker: string, file: string): Promise<SharedAddress> {
    const id = `${kind} ${worker}`
    const starting = workers.get(id) ?? starts[kind]().then(started => ({ ...started, file }))
    workers.set(id, starting)
    const shared = await starting
    if (shared.file !== file) await Promise.all(shared.masters.map(server => server.client().flushall()))
    shared.file = file
    return shared.address
  }

  const server: Server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://pool')
    lend(pathname.slice(1) as SharedKind, searchParams.get('worker') ?? '', searchParams.get('file') ?? '').then(
      address => response.end(JSON.stringify(address)),
      (error: Error) => response.writeHead(500).end(error.message))
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve))
  return { path, close: () => { server.close() } }
}

function addressOf ({ host, port }: RedisServer): string {
  return `${host}:${port}`
}
