// Creates what users of each plugin leave in Redis, and measures its cost, for `bench/scale.ts`. The plugins themselves
// write all of it.
import type { FastifyInstance, InjectOptions } from 'fastify'
import { cache, events, idempotency, lock, rateLimit, session } from '../plugins/index.js'
import { ALGORITHMS, type Algorithm } from '../plugins/rate-limit/policy.js'
import { until } from '../test/helpers/app/until.js'

declare module 'fastify' {
  interface Session {
    userId?: string
    visits?: number
    customer?: Record<string, unknown>
  }
}

export interface Work {
  /** Creates the data of a user in Redis. */
  make: (user: number) => Promise<unknown>
  /** How often `make` runs per user. @default 1 */
  times?: number
  /** Called after the data was counted, and before it is used. */
  begin?: () => Promise<unknown>
  /** Further operations, by their names in the docs. */
  uses?: Record<string, (user: number) => Promise<unknown>>
  /** Resolves when background work has ended. */
  settle?: () => Promise<unknown>
}

export interface Kind {
  name: string
  /** Describes the data of one user, in the words of the docs. */
  leaves: string
  /** The name of `make` in the docs. */
  made: string
  /** @param open - opens an app with the connection; @param users - the maximum number of users */
  start: (open: () => Promise<FastifyInstance>, users: number) => Promise<Work>
}

// A busy machine must not lead to timeouts.
const timeout = '10s'
const KIB = 'x'.repeat(1000)
const HOT = 100
const BROWSER = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
const ADDRESS_BASE = 0x0a00_0000

async function send (app: FastifyInstance, request: InjectOptions) {
  const response = await app.inject(request)
  if (response.statusCode !== 200) throw new Error(`${request.url} got ${response.statusCode}: ${response.body}`)
  return response
}

/** @param isLogin - whether it uses `request.login`, which leaves a tombstone of the previous session for an hour */
function sessions (isLogin: boolean): Kind {
  return {
    name: isLogin ? 'sessions of the last hour' : 'sessions',
    leaves: 'one device; 300 bytes of ' +
      `JSON${isLogin ? '; logged in within the last hour, with a basket before that' : ''}`,
    made: isLogin ? '`request.login`' : 'a session saved for the first time',
    async start (open) {
      const app = await open()
      await app.register(session, { secret: 'of the bench, thirty-two characters or more', timeout })
      const customer = {
        name: 'Ann Example',
        mail: 'ann@example.com',
        roles: ['customer'],
        locale: 'en-GB',
        cart: [1, 2, 3].map(product => ({ product, quantity: 1, price: 1999 }))
      }
      app.post<{ Params: { user: string } }>('/login/:user', async request => {
        const { user } = request.params
        if (isLogin) await request.login(user, { set: { visits: 0, customer } })
        else Object.assign(request.session, { userId: user, visits: 0, customer })
        return {}
      })
      app.post('/basket', async ({ session }) => {
        session.visits = 1
        return {}
      })
      app.get('/read', async request => ({ user: request.session.userId ?? '' }))
      app.get('/change', async ({ session }) => {
        session.visits = (session.visits ?? 0) + 1
        return {}
      })
      const cookies = new Map<number, string>()
      const ask = (url: string) => (user: number) => send(app, { url, headers: { cookie: cookies.get(user) ?? '' } })
      return {
        async make (user) {
          for (const url of [...isLogin ? ['/basket'] : [], `/login/user-${user}`]) {
            const { headers } = await send(
              app, { method: 'POST', url, headers: { 'user-agent': BROWSER, cookie: cookies.get(user) ?? '' } }
            )
            cookies.set(user, String(headers['set-cookie']).split(';', 1)[0] ?? '')
          }
        },
        ...!isLogin &&
          { uses: { 'a request that reads its session': ask('/read'), 'a request that changes it': ask('/change') } }
      }
    }
  }
}

function limits (algorithm: Algorithm): Kind {
  // The other algorithms store the same at any level; but a bucket of `gcra` is removed when it has drained.
  const [times, cost] = algorithm === 'sliding-log' ? [10, 1] : [1, 90]
  return {
    name: `limits ${algorithm}`,
    leaves: `an address; \`max: 100\`, ${times * cost} taken`,
    made: 'a decision',
    async start (open) {
      const app = await open()
      await app.register(rateLimit, { global: false, timeout })
      const policy = { name: 'bench', max: 100, timeWindow: '1h', algorithm }
      return {
        times,
        async make (user) {
          const { allowed, takenFrom } = await app.rateLimiter.consume(addressOf(user), policy, cost)
          if (!allowed || takenFrom !== 'store') throw new Error('it was not Redis that let it pass')
        }
      }
    }
  }
}

function addressOf (user: number): string {
  return [24, 16, 8, 0].map(bits => ((ADDRESS_BASE + user) >>> bits) & 0xff).join('.')
}

const responses: Kind = {
  name: 'response cache',
  leaves: 'a response of 1 KiB with its own tag',
  made: 'a miss',
  async start (open) {
    const build = async (l1?: false) => {
      const app = await open()
      await app.register(cache, { ttl: '1h', unkeyed: false, timeout, ...l1 === false && { l1 } })
      app.get<{ Params: { id: string } }>(
        '/items/:id', { config: { cache: { tags: ({ params: { id } }) => [`item:${id}`] } } },
        async ({ params: { id } }) => ({ id, text: KIB })
      )
      return app
    }
    const [app, tiered] = [await build(false), await build()]
    return {
      make: user => send(app, { url: `/items/${user}` }),
      uses: {
        'a hit in Redis': user => send(app, { url: `/items/${user}` }),
        'an L1 hit': user => send(tiered, { url: `/items/${user % HOT}` })
      }
    }
  }
}

const values: Kind = {
  name: 'data cache',
  leaves: 'a value of 1 KiB with a tag of its own',
  made: 'a miss',
  async start (open) {
    const build = async (l1?: false) => {
      const app = await open()
      await app.register(cache, { values: { ttl: '1h' }, timeout, ...l1 === false && { l1 } })
      return (id: number) => app.cache.getOrSet(`item:${id}`, () => ({ id, text: KIB }), { tags: [`item:${id}`] })
    }
    const [ask, askTiered] = [await build(false), await build()]
    return { make: ask, uses: { 'a hit in Redis': ask, 'an L1 hit': user => askTiered(user % HOT) } }
  }
}

const replays: Kind = {
  name: 'idempotency',
  leaves: 'a response of 300 bytes',
  made: 'a request with a new key',
  async start (open) {
    const app = await open()
    await app.register(idempotency, { timeout, scope: request => request.ip })
    app.post<{ Body: { order: number } }>(
      '/orders', { config: { idempotency: true } }, async ({ body: { order } }) => ({ order, text: KIB.slice(0, 270) })
    )
    const order = (user: number) =>
      send(
        app,
        { method: 'POST', url: '/orders', headers: { 'idempotency-key': `order-${user}` }, payload: { order: user } }
      )
    return { make: order, uses: { 'the same again': order } }
  }
}

const stream: Kind = {
  name: 'stream',
  leaves: 'an event of 100 bytes, handled by one group',
  made: 'an event appended and handled',
  async start (open, users) {
    const app = await open()
    await app.register(events, { timeout })
    const orders = app.events.stream('orders', { maxLength: users * 2 })
    await orders.consume({ group: 'mail', concurrency: 100, handler: () => {} })
    return {
      make: user =>
        orders.append({ customer: `customer-${user}`, text: KIB.slice(0, 60) }, { key: `customer-${user}` }),
      async settle () {
        await until('all events are handled', async () => {
          const { groups: { mail } } = await orders.stats()
          return mail !== undefined && mail.lag === 0 && mail.pending === 0
        }, 120_000)
      }
    }
  }
}

const messages: Kind = {
  name: 'events',
  leaves: 'nothing',
  made: 'a message to one subscriber',
  async start (open) {
    const app = await open()
    await app.register(events, { timeout })
    await app.events.subscribe('order:*', () => {})
    return { make: user => app.events.publish('order:placed', { id: user }) }
  }
}

const held: Kind = {
  name: 'locks held',
  leaves: 'a lock that is held',
  made: 'a lock taken',
  async start (open) {
    const app = await open()
    await app.register(lock, { timeout })
    return { make: user => app.locks.acquire(`order:${user}`, { ttl: '1h' }) }
  }
}

const fences: Kind = {
  name: 'locks given back',
  leaves: 'the counter of tokens of a lock that was held within the last hour',
  made: 'a lock taken and given back',
  async start (open) {
    const app = await open()
    await app.register(lock, { timeout })
    return { make: user => app.locks.using(`order:${user}`, () => {}) }
  }
}

const behind: Kind = {
  name: 'write-behind',
  leaves: 'a write of 300 bytes that waits as the source is down',
  made: 'a write accepted and written',
  async start (open, users) {
    const app = await open()
    await app.register(cache, { timeout })
    let isDown = true
    const orders = app.cache.writeBehind('orders', {
      write () { if (isDown) throw new Error('the source is down') },
      isOutage: () => true,
      backoff: { max: '200ms' },
      maxBacklog: users * 3
    })
    const flush = () => orders.flush({ timeout: '5 minutes' })
    return {
      make: user => orders.add(`order:${user}`, { user, text: KIB.slice(0, 270) }),
      async begin () {
        isDown = false
        await flush()
      },
      settle: async () => { if (!isDown) await flush() }
    }
  }
}

export const KINDS: readonly Kind[] = [
  sessions(false), sessions(true), ...ALGORITHMS.map(limits), responses, values, replays, stream, messages, held,
  fences, behind
]
