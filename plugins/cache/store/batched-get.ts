import type { RedisPort } from '../../shared/redis/port.js'
import { isWrongType } from '../../shared/plugin/errors.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'

type Values = Array<Buffer | null>
type Batch = ReadonlyArray<Batched<readonly string[]>>

/** The keys of one `MGET`. Redis executes it in a fraction of a millisecond. */
const MAX_KEYS = 128

/** Reads the keys of one turn of the event loop by one `MGET`, each of them once. */
export class BatchedGet {
  readonly #batch: MicroBatch<readonly string[], Values>
  /** See {@link MicroBatch.share}. */
  readonly share: <T> (id: string, work: () => Promise<T>) => Promise<T>

  constructor (client: RedisPort) {
    const batch = new MicroBatch<readonly string[], Values>({
      client,
      maxSize: MAX_KEYS,
      sendTogether: getTogether,
      sendApart: getApart,
      parse: parseValues
    })
    this.#batch = batch
    this.share = (id, work) => batch.share(id, work)
  }

  /** Returns the values of keys. One promise for all of them: each promise costs about a microsecond. */
  getAll (keys: readonly string[]): Promise<Values> {
    if (keys.length <= MAX_KEYS) return this.#batch.add(keys, undefined, keys.length)
    const parts = Array.from({ length: Math.ceil(keys.length / MAX_KEYS) }, (_, i) =>
      keys.slice(i * MAX_KEYS, (i + 1) * MAX_KEYS))
    return Promise.all(parts.map(part => this.getAll(part))).then(values => values.flat())
  }
}

function getTogether (batch: Batch, pipeline: TurnPipeline): Promise<unknown> {
  const places = new Map<string, number>()
  for (const { request: keys } of batch) for (const key of keys) if (!places.has(key)) places.set(key, places.size)
  const [first = ''] = places.keys()
  return pipeline.send(first, 'mget', [...places.keys()], true).then(reply => {
    const values: unknown[] = Array.isArray(reply) ? reply : []
    return batch.map(({ request: keys }) => keys.map(key => values[places.get(key) ?? -1]))
  })
}

/** Each key is read once here as well. */
function getApart (batch: Batch, pipeline: TurnPipeline): Array<Promise<unknown>> {
  const replies = new Map<string, Promise<unknown>>()
  const get = (key: string) => {
    const reply = replies.get(key) ?? pipeline.send(key, 'get', [key], true).catch(nullForAnotherType)
    replies.set(key, reply)
    return reply
  }
  return batch.map(({ request: keys }) => Promise.all(keys.map(get)).then(values => [values]))
}

/** As `MGET` does: a key of another type reads as none. */
function nullForAnotherType (error: unknown): null {
  if (isWrongType(error)) return null
  throw error
}

function parseValues (reply: unknown): Array<Values | Error> {
  return (reply as unknown[][]).map(values =>
    values.every(isValue) ? values : new TypeError('unexpected reply to MGET'))
}

function isValue (value: unknown): value is Buffer | null {
  return value === null || Buffer.isBuffer(value)
}
