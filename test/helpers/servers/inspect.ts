// For tests of the servers themselves.
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { Redis, type RedisOptions } from 'ioredis'
import type { Test } from 'tap'
import type { RedisServer } from './redis-server.js'

export function isRunning (pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

export async function isListening (port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

export function nothingLeft (t: Test, servers: RedisServer[]): void {
  t.same(servers.filter(server => isRunning(server.pid)).map(server => server.pid), [], 'no process is left')
  t.same(servers.map(server => server.dir).filter(existsSync), [], 'no folder is left')
}

export function clientOf (t: Test, url: string, options: RedisOptions = {}): Redis {
  const client = new Redis(url, { retryStrategy: () => 20, maxRetriesPerRequest: null, ...options })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  return client
}
