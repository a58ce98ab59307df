// A cache in front of a rate-limited API: `GET /users/:username` returns a GitHub user, and calls GitHub as rarely as
// its headers allow. Offline: `npx tsx examples/techniques/github-stand-in.ts`, and
// `GITHUB_API_URL=http://localhost:4000 npx tsx examples/techniques/github-user.ts`.
import { pathToFileURL } from 'node:url'
// #region app
import Fastify from 'fastify'
import type { FactoryContext } from '../../plugins/cache/index.js'
import { cache, redis } from '../../plugins/index.js'
import { systemClock, type Clock } from '../../plugins/redis/index.js'

/** The fields of a user that are cached. */
const FIELDS = ['login', 'name', 'company', 'location', 'public_repos', 'followers'] as const
type User = Record<string, string | number | null>
/** The cached value: `ttl` is GitHub's `max-age`, and `checkedAt` when GitHub last confirmed the user. */
interface Profile { user: User, etag: string | null, ttl: number, checkedAt: number }

export interface GithubOptions {
  /** The base URL of the API. @default `GITHUB_API_URL`, or https://api.github.com */
  github?: string
  /** @default `GITHUB_TOKEN`; an empty string calls GitHub anonymously */
  token?: string
  /** An empty string caches in the memory of this process. @default `REDIS_URL` */
  redisUrl?: string
  /** For tests. @default the system's clock */
  clock?: Clock
}

/** GitHub is not called before `retryAfter` seconds have passed. */
class QuotaError extends Error {
  readonly statusCode = 503
  readonly headers: { 'retry-after': number }

  constructor (retryAfter: number) {
    super('the quota of GitHub is used up')
    this.headers = { 'retry-after': retryAfter }
  }
}

export async function build ({
  github = process.env['GITHUB_API_URL'] ?? 'https://api.github.com',
  token = process.env['GITHUB_TOKEN'] ?? '',
  redisUrl: url = process.env['REDIS_URL'] ?? '',
  clock = systemClock
}: GithubOptions = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  if (url !== '') await app.register(redis, { url, prefix: 'example', clock })
  await app.register(cache, { clock })

  const users = app.cache.withPrefix('github-user', {
    staleIfError: '1 day', softTimeout: '500ms', hardTimeout: '5s', negativeTtl: '1m'
  })
  const quota = app.cache.withPrefix('github-quota')
  let pausedUntil = 0

  /** Throws while GitHub must not be called, on whichever instance that became known. */
  async function checkQuota (): Promise<void> {
    const until = Math.max(pausedUntil, await quota.get<number>('paused-until') ?? 0)
    if (until > clock.now()) throw new QuotaError(Math.ceil((until - clock.now()) / 1000))
  }

  /** Notes that the quota is used up, also by a successful response. */
  async function noteQuota ({ status, headers }: Response): Promise<void> {
    const isRefused = status === 403 || status === 429
    const retryAfter = headers.get('retry-after')
    const now = clock.now()
    if (retryAfter !== null) pausedUntil = now + Number(retryAfter) * 1000
    else if (headers.get('x-ratelimit-remaining') === '0') pausedUntil = Number(headers.get('x-ratelimit-reset')) * 1000
    else if (isRefused) pausedUntil = now + 60_000
    // Redis may be unavailable: this instance pauses in any case.
    if (pausedUntil > now) await quota.set('paused-until', pausedUntil, { ttl: pausedUntil - now }).catch(() => {})
    if (isRefused) await checkQuota()
  }

  async function load (
    username: string, { signal, stale }: FactoryContext<Profile | null>
  ): Promise<Profile | null> {
    await checkQuota()
    const headers = new Headers({
      accept: 'application/vnd.github+json',
      'user-agent': 'fastify-redis-suite-example',
      'x-github-api-version': '2022-11-28'
    })
    if (token !== '') headers.set('authorization', `Bearer ${token}`)
    if (stale?.etag) headers.set('if-none-match', stale.etag)
    const response = await fetch(`${github}/users/${username}`, { headers, signal })
    await noteQuota(response)
    const maxAge = /\bmax-age=(\d+)/.exec(response.headers.get('cache-control') ?? '')?.[1] ?? 60
    const fresh = { ttl: Number(maxAge) * 1000, checkedAt: clock.now() }
    if (response.status === 304 && stale) return { ...stale, ...fresh }
    if (response.status === 404) return null
    if (!response.ok) {
      throw Object.assign(new Error(`GitHub responded with ${response.status}`), { statusCode: 502 })
    }
    const all = await response.json() as User
    const user = Object.fromEntries(FIELDS.map(field => [field, all[field] ?? null]))
    return { user, etag: response.headers.get('etag'), ...fresh }
  }

  const username = { type: 'string', pattern: '^[A-Za-z\\d][A-Za-z\\d-]{0,38}$' }
  const schema = { params: { type: 'object', properties: { username } } }

  app.get<{ Params: { username: string } }>('/users/:username', { schema }, async (request, reply) => {
    // GitHub does not distinguish upper and lower case.
    const username = request.params.username.toLowerCase()
    const profile = await users.getOrSet<Profile | null>(
      username, context => load(username, context), { ttl: value => value?.ttl ?? 0 }
    )
    if (profile === null) return await reply.code(404).send({ error: 'no such user' })
    reply.header('age', Math.floor((clock.now() - profile.checkedAt) / 1000))
    return profile.user
  })
  return app
}
// #endregion

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
