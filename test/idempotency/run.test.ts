import type { FastifyBaseLogger } from 'fastify'
import t from 'tap'
import { createMemoryStore } from '../../plugins/idempotency/memory-store.js'
import { Run, type RunContext } from '../../plugins/idempotency/run.js'
import { systemClock } from '../../plugins/shared/clock.js'
import { until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

t.test('answers that a store does not take are bounded, and the log has a line for all of them', async t => {
  const { logger, lines } = collectLog()
  const linesWith = (part: string) => lines.filter(line => String(line['msg']).includes(part)).length
  let isDown = true
  const kept: string[] = []
  const store = createMemoryStore(10)
  const context: RunContext = {
    store: {
      ...store,
      async complete ({ id }) {
        if (isDown) throw new Error('down')
        kept.push(id)
        return true
      }
    },
    run: operation => operation(),
    log: logger as FastifyBaseLogger,
    clock: systemClock,
    runs: new Set(),
    debts: { bytes: 0, isFull: false }
  }
  const body = Buffer.alloc(25 * 1024 * 1024)
  const complete = async (id: string) => {
    const run = new Run(context, { claimant: { id, fingerprint: '', token: id }, lease: 100, ttl: 60_000, isClaimed: true, isOver: () => false })
    await run.complete({ status: 200, headers: {}, body })
  }
  for (const id of ['a', 'b', 'c', 'd']) await complete(id)
  t.same([context.runs.size, linesWith('an answer is not kept yet'), linesWith('no more answers are kept')], [2, 1, 1])
  isDown = false
  await until('what is owed is kept', () => context.runs.size === 0)
  t.same([kept.sort(), context.debts], [['a', 'b'], { bytes: 0, isFull: false }])
  isDown = true
  await complete('e')
  t.same([context.runs.size, linesWith('an answer is not kept yet')], [1, 2])
  isDown = false
  await until('this one is kept', () => kept.length === 3)
})
