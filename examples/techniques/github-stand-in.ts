// A stand-in for `GET /users/:username` of the GitHub REST API, for work offline: ETag and 304, 404, `Cache-Control`, a
// quota per hour and token, 403 when it is used up, and 429 with `Retry-After`. Run it with
// `npx tsx examples/techniques/github-stand-in.ts`.
import { createHash } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { systemClock, type Clock } from '../../plugins/redis/index.js'

const HOUR_MS = 3_600_000
/** Requests per hour, as those of GitHub. */
const LIMITS = { anonymous: 60, authorized: 5000 }

export interface StandInOptions {
  limits?: typeof LIMITS
  /** For tests. @default the system's clock */
  clock?: Clock
}

export function build ({ limits = LIMITS, clock = systemClock }: StandInOptions = {}) {
  const app = Fastify({ forceCloseConnections: true })
  const users = new Map<string, object>([
    [
      'octocat',
      {
        login: 'octocat',
        name: 'The Octocat',
        company: '@github',
        location: 'San Francisco',
        public_repos: 8,
        followers: 20_000
      }
    ]
  ])
  const quotas = new Map<string, { used: number, resetAt: number }>()
  const state = { users, requests: 0, busyFor: 0, isHanging: false }

  function quotaOf (client: string) {
    const known = quotas.get(client)
    if (known !== undefined && known.resetAt > clock.now()) return known
    const quota = { used: 0, resetAt: clock.now() + HOUR_MS }
    quotas.set(client, quota)
    return quota
  }

  app.get<{ Params: { username: string } }>('/users/:username', async (request, reply) => {
    state.requests++
    if (state.isHanging) return await new Promise<never>(() => {})
    // The secondary limit: too many requests at a time.
    if (state.busyFor > 0) {
      return await reply.code(429).header('retry-after', state.busyFor).send(
        { message: 'You have exceeded a secondary rate limit' }
      )
    }
    const { authorization = '', 'if-none-match': etag } = request.headers
    const limit = authorization === '' ? limits.anonymous : limits.authorized
    const quota = quotaOf(authorization)
    const isRefused = quota.used >= limit
    const user = users.get(request.params.username.toLowerCase())
    const current = `W/"${createHash('sha256').update(JSON.stringify([user, authorization])).digest('hex')}"`
    const isSame = user !== undefined && etag === current
    // A 304 does not count, but only for a request with a token.
    if (!isRefused && !(isSame && authorization !== '')) quota.used++
    reply.headers({
      'x-ratelimit-limit': limit,
      'x-ratelimit-remaining': limit - quota.used,
      'x-ratelimit-used': quota.used,
      'x-ratelimit-reset': Math.ceil(quota.resetAt / 1000)
    })
    if (isRefused) return await reply.code(403).send({ message: 'API rate limit exceeded' })
    if (user === undefined) return await reply.code(404).send({ message: 'Not Found' })
    reply.headers({
      etag: current, 'cache-control': `${authorization === '' ? 'public' : 'private'}, max-age=60, s-maxage=60`
    })
    return isSame ? await reply.code(304).send() : user
  })

  return Object.assign(app, { state })
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await build().listen({ port: Number(process.env['PORT'] ?? 4000) })
}
