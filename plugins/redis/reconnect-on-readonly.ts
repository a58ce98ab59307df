import type { Redis } from 'ioredis'
import type { Clock } from '../shared/plugin/clock.js'

const INTERVAL_MS = 1000

/**
 * After a failover an old connection may lead to what is a replica by now, and a new one to the master. So where a write is
 * refused a connection on the side looks who is there, once a second at most, and only if it is a master is the client's own
 * made anew: what is sent meanwhile need not wait, as a replica can be read.
 *
 * @returns for the option `reconnectOnError` of the client
 */
export function followMaster (client: Redis, clock: Clock): (error: Error) => false {
  let last = -Infinity
  return error => {
    if (error.message.startsWith('READONLY') && clock.monotonic() - last >= INTERVAL_MS) {
      last = clock.monotonic()
      leadsToMaster(client).then(isMaster => { if (isMaster && client.status === 'ready') client.disconnect(true) }, () => {})
    }
    return false
  }
}

async function leadsToMaster (client: Redis): Promise<boolean> {
  const own = client.duplicate({ lazyConnect: true, retryStrategy: () => null, reconnectOnError: null })
  // The client logs the connection's troubles.
  own.on('error', () => {})
  try {
    await own.connect()
    const [role] = await own.role()
    return role === 'master'
  } finally {
    own.disconnect()
  }
}
