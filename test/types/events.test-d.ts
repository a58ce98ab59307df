import Fastify from 'fastify'
import { events } from 'fastify-redis-suite'
import type { Consumer, DeadLetter, EventStream, EventsPluginOptions, StreamEvent } from 'fastify-redis-suite/events'
import { expectError, expectNotAssignable, expectType } from 'tsd'

declare module 'fastify' {
  interface EventChannels {
    'order:placed': { id: number }
    'order:paid': { id: number, cents: number }
    'user:joined': string
  }
}

const app = Fastify()

app.register(events)
app.register(events, { redis: null, timeout: '1s', subscribeTimeout: 5000 })
expectError(app.register(events, { timeOut: '1s' }))
expectNotAssignable<EventsPluginOptions>({ timeout: false })

// By name, and by what a glob matches.
await app.events.publish('order:placed', { id: 1 })
expectError(app.events.publish('order:placed', { cents: 1 }))
await app.events.publish('any other', [1])
await app.events.subscribe('order:placed', data => expectType<{ id: number }>(data))
await app.events.subscribe('order:*', data => expectType<{ id: number } | { id: number, cents: number }>(data))
await app.events.subscribe('u*:j*', (data, channel) => { expectType<string>(data); expectType<string>(channel) })
await app.events.subscribe('other', data => expectType<unknown>(data))
expectType<() => Promise<void>>(await app.events.subscribe('*', () => {}))

interface Order { id: number }
const orders = app.events.stream<Order>('orders', { partitions: 4 })
expectType<EventStream<Order>>(orders)
expectType<string>(await orders.append({ id: 1 }, { key: 'ann' }))
expectError(orders.append({ id: 'one' }))
expectType<Consumer>(await orders.consume({
  group: 'mail',
  handler: (event, { signal, attempt }) => {
    expectType<StreamEvent<Order>>(event)
    expectType<AbortSignal>(signal)
    expectType<number>(attempt)
  }
}))
expectError(orders.consume({ group: 'mail' }))
expectError(orders.consume({ group: 'mail', handler: () => {}, from: 'now' }))
for await (const event of orders.read({ after: '0' })) expectType<Order>(event.data)
expectType<Array<DeadLetter<Order>>>(await orders.deadLetters('mail').list())

app.get('/live', async (request, reply) => {
  await app.events.sse(request, reply, orders, { map: (data, { id }) => { expectType<Order>(data); return id } })
  await app.events.sse(request, reply, 'order:paid', { event: ({ cents }) => { expectType<number>(cents); return 'paid' } })
})
