import type { Redis } from 'ioredis'
import type { Clock } from '../../shared/plugin/clock.js'

const MIN_INTERVAL_MS = 1000

/**
 * Reconnects a client whose server has become a replica, and refuses writes with `READONLY`: after a failover a new
 * connection may lead to the master. A second connection finds out whether it does, at most once a second, and only
 * then the client's own is replaced. Reads go on meanwhile, as a replica serves them.
 *
 * @returns the option `reconnectOnError` of the client
 */
export function reconnectOnReadonly (client: Redis, clock: Clock): (error: Error) => false {
  let checkedAt = -Infinity
  return error => {
    if (error.message.startsWith('READONLY') && clock.monotonic() - checkedAt >= MIN_INTERVAL_MS) {
      checkedAt = clock.monotonic()
      leadsToMaster(client).then(
        isMaster => { if (isMaster && client.status === 'ready') client.disconnect(true) }, () => {}
      )
    }
    return false
  }
}

async function leadsToMaster (client: Redis): Promise<boolean> {
  const connection = client.duplicate({ lazyConnect: true, retryStrategy: () => null, reconnectOnError: null })
  // The client itself logs the errors of connections.
  connection.on('error', () => {})
  try {
    await connection.connect()
    const [role] = await connection.role()
    return role === 'master'
  } finally {
    connection.disconnect()
  }
}
