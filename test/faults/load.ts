// A steady load on all instances, whatever the responses are.
import { until } from '../helpers/app/until.js'
import type { Shop } from './shop.js'

export const USERS = 20
const PRODUCTS = 20
const TICK_MS = 20

export type Kind = 'product' | 'value' | 'put' | 'me' | 'limited' | 'locked'

export interface Sample {
  kind: Kind
  /** By performance.now(). */
  at: number
  ms: number
  /** 0: no response. */
  status: number
  /** For how long a newer value had been acknowledged when this one was requested; 0: it was the newest. */
  staleMs: number
}

export interface Answer {
  status: number
  cache: string | null
  body: { version?: number, user?: string }
}

export interface Load {
  samples: Sample[]
  /** Resolves when all requests have responses. */
  stop (): Promise<void>
}

interface Acknowledged { version: number, at: number }

/** Skips an instance that does not run, like a load balancer. */
export async function ask (shop: Shop, instance: number, path: string, init: RequestInit = {}): Promise<Answer> {
  const once = async (turn: number): Promise<Answer> => {
    const { url } = shop.instances[turn % shop.instances.length]!
    const response = await fetch(url + path, init)
    return { status: response.status, cache: response.headers.get('x-cache'), body: await response.json() as Answer['body'] }
  }
  const none: Answer = { status: 0, cache: null, body: {} }
  return await once(instance).catch(async () => await once(instance + 1)).catch(() => none)
}

/** @returns the users' cookies */
export async function logIn (shop: Shop): Promise<string[]> {
  return await Promise.all(Array.from({ length: USERS }, async (_, user) => {
    let cookie: string | undefined
    // The first command to a node of a Cluster waits for its connection, which may exceed its deadline on a busy machine.
    await until(`u${user} is logged in`, async () => {
      const response = await fetch(`${shop.instances[user % shop.instances.length]!.url}/login/u${user}`, { method: 'POST' })
      cookie = response.headers.get('set-cookie')?.split(';')[0]
      return cookie !== undefined
    })
    return cookie ?? ''
  }))
}

export function startLoad (shop: Shop, cookies: readonly string[]): Load {
  const samples: Sample[] = []
  const pending = new Set<Promise<void>>()
  const acknowledged = new Map<string, Acknowledged[]>()
  const isChanging = new Set<string>()
  let version = 0
  let turns = 0
  const randomProduct = () => String(Math.floor(Math.random() * PRODUCTS))

  async function send (kind: Kind, path: string, init: RequestInit = {}, judge: (answer: Answer, at: number) => number = () => 0): Promise<void> {
    const at = performance.now()
    const answer = await ask(shop, ++turns, path, init)
    samples.push({ kind, at, ms: performance.now() - at, status: answer.status, staleMs: judge(answer, at) })
  }

  async function read (kind: 'product' | 'value', id: string): Promise<void> {
    await send(kind, `/${kind}s/${id}`, {}, ({ status, body }, at) => {
      const newer = acknowledged.get(id)?.find(ack => ack.version > (body.version ?? 0) && ack.at <= at)
      return status === 200 && newer !== undefined ? at - newer.at : 0
    })
  }

  async function change (id: string): Promise<void> {
    // Sequentially, so that the newest value has the highest number.
    if (isChanging.has(id)) return
    isChanging.add(id)
    const next = ++version
    const body = JSON.stringify({ version: next })
    await send('put', `/products/${id}`, { method: 'PUT', body, headers: { 'content-type': 'application/json' } }, ({ status }) => {
      if (status === 200) acknowledged.set(id, [...acknowledged.get(id) ?? [], { version: next, at: performance.now() }])
      return 0
    })
    isChanging.delete(id)
  }

  let ticks = 0
  const timer = setInterval(() => {
    const sent = [read('product', randomProduct())]
    if (++ticks % 2 === 0) sent.push(read('value', randomProduct()), send('me', '/me', { headers: { cookie: cookies[ticks / 2 % USERS]! } }))
    else sent.push(send('limited', '/limited/k'), send('locked', '/locked'))
    if (ticks % 5 === 0) sent.push(change(randomProduct()))
    for (const each of sent) pending.add(each.finally(() => { pending.delete(each) }))
  }, TICK_MS)

  return {
    samples,
    async stop () {
      clearInterval(timer)
      await Promise.all(pending)
    }
  }
}
