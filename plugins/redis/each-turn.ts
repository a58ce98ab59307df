import type { RedisClient } from '../shared/redis/client.js'

/**
 * What is asked for in one turn of the event loop travels together. But ioredis sends the next turn's commands only when the
 * last ones are answered, so that most of them take two round trips: here they do not wait. It has no option for that, only
 * a set of what is under way; where that is not found all stays as it is.
 */
export function sendEachTurn <T extends RedisClient> (client: T): T {
  if (client.options.enableAutoPipelining === true && Reflect.get(client, '_runningAutoPipelines') instanceof Set) {
    Reflect.set(client, '_runningAutoPipelines', new NothingRunning())
  }
  return client
}

/** What is under way keeps nothing back. */
class NothingRunning extends Set<string> {
  override has (): boolean {
    return false
  }

  override add (): this {
    return this
  }
}
