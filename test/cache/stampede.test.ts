// Stampedes of a thousand requests, and a process that is killed, are in test/stress/cache-stampede.test.ts.
import type { FastifyInstance, FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import type { RouteCacheOptions } from '../../plugins/cache/index.js'
import { acquireFillsScript, releaseFillScript } from '../../plugins/cache/store/scripts.js'
import { createCacheApp, gate, settled, type CacheAppOptions } from '../helpers/cache/cache-app.js'
import { advanceWhile, forEachStore, startRedis, until } from '../helpers/index.js'
import { interceptCommands, type CommandHook } from '../helpers/redis/intercept-commands.js'
import { outliveStalls } from '../helpers/redis/outlive-stalls.js'

/** A command on a stopped server leaves a timer of ioredis, which keeps the process alive for this time. */
const BROKEN = { commandTimeout: '1s' }

type Handler = (run: number, reply: FastifyReply) => unknown

/** Instances with one route, whose handler is passed the number of its run. */
async function instances (t: Test, count: number, handler: Handler, config: RouteCacheOptions = { ttl: '1m' }, given: CacheAppOptions = {}) {
  const runs = { count: 0 }
  const test = await createCacheApp(t, {
    store: 'redis',
    instances: count,
    routes: app => { app.get('/v', { config: { cache: config } }, async (_request, reply) => await handler(++runs.count, reply)) },
    ...given
  })
  return { ...test, runs, coalesced: () => test.apps.reduce((sum, app) => sum + app.cache.stats().coalesced, 0) }
}

/** Sends requests, spread over the instances, all at once. */
async function ask (apps: FastifyInstance[], count: number, headers: (i: number) => Record<string, string> = () => ({})) {
  return await Promise.all(Array.from({ length: count }, async (_, i) => {
    const response = await apps[i % apps.length]!.inject({ url: '/v', headers: headers(i) })
    return { status: response.statusCode, cache: response.headers['x-cache'], body: response.body }
  }))
}

forEachStore(['redis', 'cluster'], store => {
  for (const handler of ['a handler that takes its time', 'an immediate handler']) {
    t.test(`${store}: 40 concurrent requests for a cold key on four instances run ${handler} once`, async t => {
      const { opened, open } = gate()
      const isSlow = handler !== 'an immediate handler'
      const { apps, clock, runs, coalesced } = await instances(t, 4, async run => { if (isSlow) await opened; return { run } }, { ttl: '1m', tags: ['a', 'b'] }, { store })
      const asked = ask(apps, 40)
      // One request of each instance waits for the store, and the others wait for that request.
      await until('the others wait', () => coalesced() === 36 && runs.count === 1)
      open()
      await settled(...apps)
      const { value: answers } = await advanceWhile(clock, asked)
      t.equal(runs.count, 1)
      t.same([...new Set(answers.map(({ status, body }) => `${status} ${body}`))], ['200 {"run":1}'])
    })
  }
})

t.test('when a key expires or is invalidated under load, the handler runs once each time', async t => {
  const { apps, clock, runs } = await instances(t, 4, run => ({ run }), { ttl: '1m', tags: ['v'] })
  for (let round = 1; round <= 6; round++) {
    const { value: answers } = await advanceWhile(clock, ask(apps, 32), { step: 1 })
    t.same([runs.count, ...new Set(answers.map(({ body }) => body))], [round, `{"run":${round}}`])
    await settled(...apps)
    if (round % 2) await apps[round % 4]!.cache.invalidateTags(['v'])
    // L1 is not used 100 ms after an invalidation that it may have missed.
    await clock.advance(round % 2 ? 101 : '61s')
  }
})

t.test('each variant is filled once across all instances, also before the list of variants exists', async t => {
  const { apps, clock, runs } = await instances(t, 4, async (run, reply) => {
    await new Promise(resolve => setImmediate(resolve))
    reply.header('vary', 'accept-language')
    return { run }
  })
  const { value: answers } = await advanceWhile(clock, ask(apps, 60, i => ({ 'accept-language': ['de', 'fr', 'it'][i % 3]! })))
  t.equal(runs.count, 3)
  t.same(answers.map(({ status }) => status), Array(60).fill(200))
  t.same([0, 1, 2].map(language => new Set(answers.filter((_, i) => i % 3 === language).map(({ body }) => body)).size), [1, 1, 1], 'one response per variant')
})

t.test('an instance that finds the list of variants finds the first variant too', async t => {
  const { apps, clock, runs } = await instances(t, 2, (run, reply) => {
    reply.header('vary', 'accept-language')
    return { run }
  })
  const [first, second] = apps as [FastifyInstance, FastifyInstance]
  // Storing a variant takes two writes: the second one is delayed.
  const { opened, open } = gate()
  let writes = 0
  interceptCommands(first, async (name, args, send) => {
    if (name === 'evalsha' && args[0] !== acquireFillsScript.sha1 && ++writes === 2) await opened
    return await send()
  })
  const language = () => ({ 'accept-language': 'de' })
  await ask([first], 1, language)
  await until('the second write is about to be sent', () => writes === 2)
  const asked = ask([second], 1, language)
  await settled(second)
  open()
  await settled(first)
  const { value: [answer] } = await advanceWhile(clock, asked)
  t.same([runs.count, answer?.body], [1, '{"run":1}'])
})

const UNSHAREABLE: Record<string, Handler> = {
  throws: () => { throw new Error('broken') },
  'responds with 500': (_run, reply) => { reply.code(500); return 'no' },
  'responds with no-store': (run, reply) => { reply.header('cache-control', 'no-store'); return { run } },
  'sets a cookie': (run, reply) => { reply.header('set-cookie', `a=${run}`); return { run } }
}
for (const [what, handler] of Object.entries(UNSHAREABLE)) {
  t.test(`when the handler that 40 callers wait for ${what}, they proceed in parallel`, async t => {
    const held: Array<() => void> = []
    const { apps, clock, runs } = await instances(t, 4, async (run, reply) => {
      await new Promise<void>(resolve => held.push(resolve))
      return await handler(run, reply)
    })
    const state = { isDone: false }
    const asked = ask(apps, 41).finally(() => { state.isDone = true })
    await until('the first one runs', () => held.length === 1)
    let phases = 0
    while (!state.isDone) {
      if (held.length > 0) phases++
      for (const release of held.splice(0)) release()
      await settled(...apps)
      await clock.advance(100)
      await settled(...apps)
    }
    await asked
    t.equal(runs.count, 41, 'each has its own response')
    // The first request, one of each other instance, and all others.
    t.ok(phases <= 3, `${phases} one after the other`)
  })
}

t.test('an error goes to its own request only: after a failed run the followers get their own responses, which are stored', async t => {
  const { opened, open } = gate()
  const { apps, clock, runs, coalesced } = await instances(t, 2, async run => {
    if (run > 1) return { run }
    await opened
    throw new Error('broken')
  })
  const asked = ask(apps, 20)
  await until('the others wait', () => coalesced() === 18 && runs.count === 1)
  open()
  const { value: answers } = await advanceWhile(clock, asked)
  t.equal(answers.filter(({ status }) => status === 500).length, 1)
  t.equal(answers.filter(({ status }) => status === 200).length, 19)
  // Until then no request waits for another request.
  await clock.advance('1s')
  await advanceWhile(clock, ask(apps, 2))
  await settled(...apps)
  t.same((await ask(apps, 2)).map(({ cache }) => cache), ['HIT', 'HIT'])
})

t.test('instances wait for a holder that renews its lease; when it stops, one of them succeeds it after 1.5 s', async t => {
  const { opened, open } = gate()
  const { apps, clock, client, runs } = await instances(t, 4, async run => {
    if (run === 1) await opened
    return { run }
  })
  const [holder, ...others] = apps as [FastifyInstance, ...FastifyInstance[]]
  const lease = outliveStalls(holder, ':claim:')
  const lost = holder.inject('/v')
  await until('it runs', () => runs.count === 1)
  const asked = ask(others, 30)
  for (let i = 0; i < 6; i++) {
    await clock.advance(400)
    await settled(holder)
  }
  t.equal(runs.count, 1, 'they wait as long as it renews')
  t.ok(lease.writes >= 4, `it renews every 500 ms: ${lease.writes} writes of the lease in 2.4 s`)
  // Like a killed process, it neither renews nor releases the lease.
  interceptCommands(holder, async (name, _args, send) => name === 'evalsha' ? await new Promise(() => {}) : await send())
  await client().pexpire(lease.key, 1500)
  const { value: answers, passed } = await advanceWhile(clock, asked)
  t.equal(runs.count, 2)
  t.ok(passed <= 1700, `${passed} ms`)
  t.same([...new Set(answers.map(({ status, body }) => `${status} ${body}`))], ['200 {"run":2}'])
  open()
  await advanceWhile(clock, lost)
})

t.test('a handler that hangs blocks no other request: those that wait for it run their own handlers after 5 s, all at once', async t => {
  const { opened, open } = gate()
  const { apps, clock, runs } = await instances(t, 2, async run => {
    if (run === 1) await opened
    return { run }
  })
  const first = apps[0]!.inject('/v')
  await until('it hangs', () => runs.count === 1)
  const { value: answers, passed } = await advanceWhile(clock, ask(apps, 40))
  t.ok(passed <= 5300, `${passed} ms`)
  t.same(answers.map(({ status }) => status), Array(40).fill(200))
  open()
  t.equal((await first).statusCode, 200)
})

t.test('while Redis is down, requests of one instance are still coalesced', async t => {
  const server = await startRedis()
  const redis = { url: server.url, answers: true }
  const held = { gate: gate() }
  const { apps, clock, runs } = await instances(t, 2, async run => { await held.gate.opened; return { run } }, { ttl: '1m' }, { store: redis, options: { timeout: 60 }, connection: BROKEN })
  redis.answers = false
  await server.kill()
  held.gate.open()
  await advanceWhile(clock, ask(apps, 20))
  held.gate = gate()
  runs.count = 0
  const asked = ask(apps, 40)
  await advanceWhile(clock, until('each instance runs it', () => runs.count === 2))
  held.gate.open()
  const { value: answers, passed } = await advanceWhile(clock, asked)
  t.equal(runs.count, 2)
  t.ok(passed <= 200, `${passed} ms`)
  t.same(answers.map(({ status }) => status), Array(40).fill(200))
})

t.test('one of four instances refreshes a stale response, while all of them serve it', async t => {
  const state = { gate: gate() }
  const { apps, clock, runs } = await instances(t, 4, async run => {
    if (run > 1) await state.gate.opened
    return { run }
  }, { ttl: '1m', staleWhileRevalidate: '1h' })
  await ask(apps, 1)
  await settled(...apps)
  for (let round = 1; round <= 3; round++) {
    await clock.advance('61s')
    state.gate = gate()
    const answers = await ask(apps, 32)
    t.same([...new Set(answers.map(({ cache, body }) => `${cache} ${body}`))], [`STALE {"run":${round}}`])
    await settled(...apps)
    state.gate.open()
    await settled(...apps)
    t.equal(runs.count, round + 1)
    t.same([...new Set((await ask(apps, 8)).map(({ cache, body }) => `${cache} ${body}`))], [`HIT {"run":${round + 1}}`])
  }
})

const lostReplies: Record<string, (command: string, args: readonly unknown[]) => boolean> = {
  'to the acquisition of a lease': (command, [digest]) => command === 'evalsha' && digest === acquireFillsScript.sha1,
  'to the release of a lease': (command, [digest]) => command === 'evalsha' && digest === releaseFillScript.sha1
}

for (const [what, isLost] of Object.entries(lostReplies)) {
  t.test(`where Redis's reply ${what} is lost, the next request does not wait until the lease expires`, async t => {
    let lost = 0
    /** The connection breaks before the reply to the first such command: the lease is acquired, or is not released. */
    const lose: CommandHook = async (command, args, send) => {
      if (lost > 0 || !isLost(command, args)) return await send()
      lost++
      if (args[0] === acquireFillsScript.sha1) await send()
      throw new Error('Connection is closed.')
    }
    const { apps: [app, other], clock } = await instances(t, 2, (run, reply) => { reply.noCache(); return { run } }, { ttl: '1m' }, {
      before: app => interceptCommands(app, lose)
    })
    t.equal((await advanceWhile(clock, ask([app!], 1))).value[0]?.status, 200)
    await settled(app!)
    t.equal(lost, 1)
    const { value: [answer], passed } = await advanceWhile(clock, ask([other!], 1))
    t.equal(answer?.status, 200)
    t.ok(passed <= 300, `after ${passed} ms of the clock, and not after 1500`)
  })
}
