import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { scrape } from './scrape.js'

/** Pseudo-random numbers from 0 to 1, the same in each run (the generator of Numerical Recipes). */
function numbers (): () => number {
  let state = 1
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32
    return state / 2 ** 32
  }
}

/**
 * Sends requests with random URLs, methods and statuses, and asserts that their number of series is bounded and none is lost.
 *
 * @param app - with the plugin `metrics`, whose `maxRoutes` is 5
 */
export async function requestAtRandom (t: Test, app: FastifyInstance, requests: number): Promise<void> {
  const next = numbers()
  const random = (most: number) => Math.floor(next() * most)
  app.addHttpMethod('PURGE')
  for (let i = 0; i < 20; i++) {
    app.route({
      method: ['GET', 'POST', 'DELETE', 'PURGE'] as never,
      url: `/r${i}/:id`,
      handler: async (request, reply) => {
        // Bypasses Fastify, which allows known classes of statuses only.
        reply.raw.statusCode = Number(request.headers['x-status'])
        return 'x'
      }
    })
  }
  const methods = ['GET', 'POST', 'DELETE', 'PURGE', 'PUT', 'OPTIONS']
  let routed = 0
  for (let sent = 0; sent < requests; sent += 100) {
    const responses = await Promise.all(Array.from({ length: 100 }, () => app.inject({
      method: methods[random(methods.length)] as 'GET',
      url: random(2) ? `/r${random(20)}/${next()}` : `/${next()}${random(2) ? '/%zz' : ''}`,
      headers: { 'x-status': String([200, 201, 404, 500, 799, 900][random(6)]) }
    })))
    // Fastify responds to an invalid URL before any hook.
    routed += responses.filter(({ body }) => !body.includes('FST_ERR_BAD_URL')).length
  }
  t.ok(routed > requests * 0.6)
  const found = await scrape(app)
  t.equal(found.sum('http_request_duration_seconds_count'), routed)
  const series = found.text.split('\n').filter(line => line.startsWith('http_request_duration_seconds_count')).length
  t.ok(series <= 7 * 6 * 6, `${series} series`)
  t.equal(found.sum('http_request_duration_seconds_count', { method: 'PURGE' }), undefined, 'a method that is not common is OTHER')
  t.ok(found.sum('http_request_duration_seconds_count', { method: 'OTHER' })! > 0)
  t.ok(found.sum('http_request_duration_seconds_count', { route: 'other' })! > 0)
  t.equal(found.sum('http_request_duration_seconds_count', { status_code: '799' }), undefined)
  t.ok(found.sum('http_request_duration_seconds_count', { status_code: 'other' })! > 0)
}
