import type { Redis } from 'ioredis'

/** The work of a Redis server since its start. */
export interface RedisWork {
  bytesIn: number
  bytesOut: number
  micros: number
  /** Commands, including those inside scripts. */
  commands: Record<string, number>
}

export async function redisWork (redis: Redis): Promise<RedisWork> {
  const info = await redis.info('stats', 'cpu', 'commandstats')
  const read = (name: string) => Number(new RegExp(`${name}:([\\d.]+)`).exec(info)?.[1])
  const calls = [...info.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)].map(
    ([, name = '', count]) => [name.toUpperCase(), Number(count)] as const
  )
  return {
    bytesIn: read('total_net_input_bytes'),
    bytesOut: read('total_net_output_bytes'),
    micros: (read('used_cpu_user') + read('used_cpu_sys')) * 1e6,
    commands: Object.fromEntries(calls.filter(([name]) => !/^(?:INFO|PING|CONFIG|CLIENT)\b/.test(name)))
  }
}

/** Returns the work between two readings for one of `count` operations. */
export function workEach (before: RedisWork, after: RedisWork, count: number): RedisWork {
  const grown = (was: number, is: number) => (is - was) / count
  return {
    bytesIn: grown(before.bytesIn, after.bytesIn),
    bytesOut: grown(before.bytesOut, after.bytesOut),
    micros: grown(before.micros, after.micros),
    commands: Object.fromEntries(
      Object.entries(after.commands).map(([name, calls]) => [name, grown(before.commands[name] ?? 0, calls)])
    )
  }
}

export function sumOf (commands: Record<string, number>): number {
  return Object.values(commands).reduce((sum, count) => sum + count, 0)
}
