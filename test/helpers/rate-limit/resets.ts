import type { TestApp } from '../app/test-app.js'
import { until } from '../app/until.js'
import { resetChannel } from '../../../plugins/rate-limit/store/redis-store.js'
import { portOf } from '../../../plugins/shared/redis/client.js'

/** Waits until each app receives the resets of the others. */
export async function untilResetsAreReceived ({ app, apps, prefix }: Pick<TestApp, 'app' | 'apps' | 'prefix'>): Promise<void> {
  const channel = resetChannel(portOf(app.redis), prefix)
  await until(`${apps.length} instances subscribe to ${channel}`, async () => {
    const [, count] = await app.redis.call('PUBSUB', 'NUMSUB', channel) as [string, number]
    return count === apps.length
  })
  // The server has sent its replies to the subscribers before the reply to this PING.
  await app.redis.ping()
}
