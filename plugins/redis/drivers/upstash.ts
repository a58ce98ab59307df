import { withDeadline } from '../../shared/redis/deadline.js'
import type { Clock } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { portOf } from '../../shared/redis/client.js'
import type { UpstashClient } from '../../shared/redis/clients/upstash.js'
import { connectError, connectFailureOf } from '../errors.js'
import type { Driver } from './driver.js'

/** A client over HTTP has no connection that the plugin could make or close. */
export const upstashDriver: Driver<UpstashClient> = {
  optionNames: [],
  create () { throw new TypeError('a client of Upstash is made by fromUpstash') },
  addressOf: client => portOf(client).address,
  waitUntilReady,
  close: async () => {},
  disconnect () {},
  decorate: async () => false
}

/** Finds out whether the database replies, and accepts the token. */
async function waitUntilReady (client: UpstashClient, timeout: Milliseconds, clock: Clock): Promise<void> {
  const port = portOf(client)
  const failure = (error?: Error): Error => connectError(connectFailureOf(error), port.address, error)
  const pinged = port.send('ping', []).catch((error: Error) => { throw failure(error) })
  await withDeadline(pinged, timeout, failure, clock)
}
