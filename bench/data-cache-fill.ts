import type { Redis } from 'ioredis'

const BATCH = 5000

/** Returns the entry of a number; all have the same length. */
export function nameOf (entry: number): string {
  return `entry:${String(entry).padStart(9, '0')}`
}

interface Template {
  key: string
  ttl: string
  /** The text of a string, as latin1. */
  text?: string
  members?: string[]
  /** Whether each entry has its own key of this kind, or all share one. */
  isOwn: boolean
}

/**
 * Copies what a library wrote for one entry to further entries: keys, values and members of sets that contain its key.
 */
export async function fillByFormat (
  redis: Redis, sample: number, end: number, idOf: (name: string) => string = name => name
): Promise<void> {
  const [sampleName, sampleId] = [nameOf(sample), idOf(nameOf(sample))]
  const templates = await readTemplates(redis, text => text.includes(sampleName) || text.includes(sampleId))
  for (let first = sample + 1; first < end; first += BATCH) {
    const pipeline = redis.pipeline()
    for (let entry = first; entry < Math.min(end, first + BATCH); entry++) {
      const [name, id] = [nameOf(entry), idOf(nameOf(entry))]
      const rename = (text: string) => text.replaceAll(sampleName, name).replaceAll(sampleId, id)
      for (const { key, ttl, text, members, isOwn } of templates) {
        const own = rename(key)
        if (text !== undefined) pipeline.set(own, Buffer.from(rename(text), 'latin1'), 'PX', ttl)
        if (members !== undefined) pipeline.sadd(own, ...members.map(rename))
        if (members !== undefined && isOwn) pipeline.pexpire(own, ttl)
      }
    }
    for (const [error] of await pipeline.exec() ?? []) if (error) throw error
  }
}

async function readTemplates (redis: Redis, namesSample: (text: string) => boolean): Promise<Template[]> {
  const templates: Template[] = []
  for (const key of await keysOf(redis)) {
    const isOwn = namesSample(key)
    const ttl = String(Math.max(1, await redis.pttl(key)))
    const type = await redis.type(key)
    if (type === 'set') {
      const members = (await redis.smembers(key)).filter(member => isOwn || namesSample(member))
      if (members.length > 0) templates.push({ key, ttl, members, isOwn })
    } else if (type === 'string') {
      const text = (await redis.getBuffer(key))?.toString('latin1') ?? ''
      if (isOwn) templates.push({ key, ttl, text, isOwn })
      else if (namesSample(text)) throw new Error(`${key} lists entries in a string`)
    // A lease may have expired meanwhile.
    } else if (type !== 'none') throw new Error(`${key} is a ${type}`)
  }
  return templates
}

async function keysOf (redis: Redis): Promise<string[]> {
  return (await redis.scan(0, 'COUNT', 1000))[1]
}
