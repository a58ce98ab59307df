import type { LiveEvent, Sample } from '../demo/live-events.js'
import { find, write } from './dom.js'
import { Live } from './live.js'
import { breakRedisPanel } from './panels/break-redis.js'
import { cachePanel } from './panels/cache.js'
import { eventsPanel } from './panels/events.js'
import { healthPanel } from './panels/health.js'
import { idempotencyPanel } from './panels/idempotency.js'
import { instancesPanel } from './panels/instances.js'
import { locksPanel } from './panels/locks.js'
import { rateLimitPanel } from './panels/rate-limit.js'
import { redisPanel } from './panels/redis.js'
import { sessionsPanel } from './panels/sessions.js'
import { streamsPanel } from './panels/streams.js'
import { writeBehindPanel } from './panels/write-behind.js'

/** The instance that this page is connected to. */
let own = ''
const breakRedis = breakRedisPanel()
const cache = cachePanel()
const rateLimit = rateLimitPanel()
const locks = locksPanel()
idempotencyPanel()
const streams = streamsPanel()
const writeBehind = writeBehindPanel()
const sessions = sessionsPanel()
const redis = redisPanel()
const health = healthPanel()
const instances = instancesPanel()
const events = eventsPanel()

const live = new Live(isLive => {
  const badge = find('connection', HTMLElement)
  badge.dataset['state'] = isLive ? 'pass' : 'fail'
  write('connection', isLive ? 'live' : 'not connected, reconnecting')
})
live.on('hello', hello => {
  own = hello.instance
  write('instance', own)
  rateLimit.onHello(hello)
  breakRedis.onHello(hello.isBreakable)
  // Events before the connection have been missed.
  sessions.refresh().catch(() => {})
})
live.on('sample', sample => { if (sample.instance === own) drawSample(sample) })
live.on('fallbacks', event => { if (event.instance === own) breakRedis.onFallbacks(event) })
live.on('decision', event => rateLimit.onDecision(event))
live.on('session', event => sessions.onSession(event))
live.on('lock', event => locks(event))
live.on('parcel', event => streams.onParcel(event))
live.on('batch', event => writeBehind.onBatch(event))
for (const kind of ['cache', 'decision', 'session', 'health', 'lock', 'payment', 'parcel', 'batch', 'more'] as const) {
  live.on(kind, events)
}
live.open()

/** Draws the samples of all instances whenever one of this page's instance arrives. */
function drawSample (sample: LiveEvent<Sample>): void {
  write('store', sample.store.label)
  redis(sample)
  health(sample)
  streams.onSample(sample)
  writeBehind.onSample(sample)
  const all = live.instances
  // The first sample provides the entries of the store.
  cache([sample, ...all.filter(({ instance }) => instance !== own)])
  rateLimit.onSamples(all)
  instances(all, own)
}
