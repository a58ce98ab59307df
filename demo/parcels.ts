import fp from 'fastify-plugin'
import { systemClock, type Clock } from '../plugins/redis/index.js'
import { sleep } from './sleep.js'

declare module 'fastify' {
  interface FastifyInstance {
    parcels: Parcels
  }
  interface EventChannels {
    'parcels:fixed': { at: number }
  }
}

interface Parcel {
  /** Whether the handler fails on this parcel until the handler is fixed. */
  damaged: boolean
  /** When it was appended, by the clock of its instance. */
  at: number
}

export interface ParcelStats {
  /** Stored events. */
  length: number
  /** Events that no instance has taken yet. */
  lag: number
  /** Events that an instance has taken and not acknowledged. */
  pending: number
  deadLetters: number
}

export interface Parcels {
  /** Appends parcels for a few customers. @returns their ids */
  append (count: number, options: { damaged: boolean }): Promise<string[]>
  /** Returns the state of the stream; undefined if it is unknown at present. */
  stats (): Promise<ParcelStats | undefined>
  /** Fixes the handlers of all instances, and has the dead letters handled again. @returns how many */
  fixAndReplay (): Promise<number>
  /** Deletes the dead letters. @returns how many */
  discard (): Promise<number>
}

const GROUP = 'warehouse'
const HANDLE_MS = 400
const RETRIES = 2
const CUSTOMERS = ['ann', 'bob', 'eve'] as const

/** A stream of parcels that all instances handle together; damaged ones become dead letters. */
export const parcels = fp<{ clock?: Clock | undefined }>(async function parcels (fastify, { clock = systemClock }) {
  const { events, live } = fastify
  const stream = events.stream<Parcel>(
    'parcels', { partitions: 4, maxLength: 1000, maxAge: '1h', retention: '1h', maxDeadLetters: 100 }
  )
  const letters = stream.deadLetters(GROUP)
  let fixedAt = 0
  let appended = 0

  // A message that arrives after the first replayed event costs that event a retry.
  await events.subscribe('parcels:fixed', ({ at }) => { fixedAt = Math.max(fixedAt, at) }, { confirm: false })

  await stream.consume({
    group: GROUP,
    concurrency: 3,
    retries: RETRIES,
    backoff: { min: 300, max: 1000 },
    async handler ({ id, key, data }, { attempt, signal }) {
      const report = (what: 'taken' | 'handled' | 'failed' | 'dead') =>
        live.publish({ kind: 'parcel', id, customer: key ?? '', what, attempt })
      report('taken')
      await sleep(clock, HANDLE_MS, signal)
      if (data.damaged && data.at > fixedAt) {
        report(attempt > RETRIES ? 'dead' : 'failed')
        throw new Error('the parcel is damaged')
      }
      report('handled')
    }
  })

  fastify.decorate('parcels', {
    async append (count, { damaged }) {
      const ids: string[] = []
      // One after another: the order of a customer's parcels is the one in which they are appended.
      for (let i = 0; i < count; i++) {
        const key = CUSTOMERS[appended++ % CUSTOMERS.length] ?? CUSTOMERS[0]
        const id = await stream.append({ damaged, at: clock.now() }, { key })
        live.publish({ kind: 'parcel', id, customer: key, what: 'appended', attempt: 0 })
        ids.push(id)
      }
      return ids
    },
    async stats () {
      try {
        const { length, groups } = await stream.stats()
        const { lag = 0, pending = 0, deadLetters = 0 } = groups[GROUP] ?? {}
        return { length, lag, pending, deadLetters }
      } catch {
        return undefined
      }
    },
    async fixAndReplay () {
      fixedAt = clock.now()
      await events.publish('parcels:fixed', { at: fixedAt })
      return await letters.replay()
    },
    discard: async () => await letters.discard()
  })
}, { name: 'demo/parcels', dependencies: ['demo/live', 'fastify-redis-suite/events'] })
