import type { FastifyInstance } from 'fastify'
import { portOf, type RedisClient } from '../../../plugins/shared/redis/client.js'
import { interceptCommands } from './intercept-commands.js'

/**
 * Keeps the leases that scripts of an app write to Redis for longer than they are written with. A TTL runs in real time too, and
 * on a busy machine more than a lease may pass between two renewals by the test's clock.
 *
 * @param part - a part of the keys of the leases
 * @returns the last such key, and how often it was written
 */
export function outliveStalls (app: FastifyInstance, part: string): { key: string, writes: number } {
  const lease = { key: '', writes: 0 }
  interceptCommands(app, async (name, args, send) => {
    const key = String(args[2])
    if (name !== 'evalsha' || !key.includes(part)) return await send()
    Object.assign(lease, { key, writes: lease.writes + 1 })
    const [reply] = await Promise.all([send(), afterTheTurn().then(() => portOf(app.redis as RedisClient).send('pexpire', [key, 3_600_000]))])
    return reply
  })
  return lease
}

/** Commands that are written together are written by then. */
const afterTheTurn = async (): Promise<void> => {}
