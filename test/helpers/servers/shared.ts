// Servers that tests share because they do not break them: one set per worker of the test run, or for this process if a file runs by itself. Each
// file starts with empty servers. A test that pauses, kills or configures a server starts its own.
import { request } from 'node:http'
import { Cluster, Redis } from 'ioredis'
import t from 'tap'
import { ioredisDriver } from '../../../plugins/redis/drivers/ioredis.js'
import { startCluster } from './redis-cluster.js'
import { startRedis } from './redis-server.js'
import type { SharedAddress, SharedKind } from './pool.js'

export interface SharedRedis {
  readonly url: string
  readonly host: string
  readonly port: number
  /** A client to inspect the server with; it is closed with the file. */
  client (): Redis
}

export interface SharedCluster {
  /** For `new Cluster(startupNodes)` of ioredis, and the option `cluster.nodes` of the plugin `redis`. */
  readonly startupNodes: Array<{ host: string, port: number }>
  /** A client to inspect the Cluster with; it is closed with the file. */
  client (): Cluster
}

let redis: Promise<SharedRedis> | undefined
let cluster: Promise<SharedCluster> | undefined

export function sharedRedis (): Promise<SharedRedis> {
  redis ??= borrow('redis').then(async address => {
    const { host, port } = address?.[0] ?? await startRedis()
    let client: Redis | undefined
    t.teardown(() => client?.disconnect())
    return { url: `redis://${host}:${port}`, host, port, client: () => { client ??= new Redis(port, host); return client } }
  })
  return redis
}

export function sharedCluster (): Promise<SharedCluster> {
  cluster ??= borrow('cluster').then(async address => {
    const startupNodes = address ?? (await startCluster()).startupNodes
    let client: Cluster | undefined
    t.teardown(() => { if (client !== undefined) ioredisDriver.disconnect(client) })
    return { startupNodes, client: () => { client ??= new Cluster(startupNodes); return client } }
  })
  return cluster
}

/** @returns undefined outside of a test run, which provides the servers */
async function borrow (kind: SharedKind): Promise<Array<{ host: string, port: number }> | undefined> {
  const socketPath = process.env['TEST_SERVERS']
  if (socketPath === undefined) return undefined
  const path = `/${kind}?worker=${process.env['TAP_JOB_ID'] ?? 0}&file=${process.pid}`
  const body = await new Promise<string>((resolve, reject) => {
    request({ socketPath, path }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }).on('end', () => {
        if (response.statusCode === 200) resolve(text)
        else reject(new Error(`no ${kind} to be had: ${text}`))
      })
    }).once('error', reject).end()
  })
  return (JSON.parse(body) as SharedAddress).servers.map(server => {
    const [host = '', port] = server.split(':')
    return { host, port: Number(port) }
  })
}
