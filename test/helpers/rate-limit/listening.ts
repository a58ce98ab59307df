import type { FastifyInstance } from 'fastify'

/** Counts from now on who listens to the limiter. */
export function countListeners ({ rateLimiter }: FastifyInstance): () => number {
  let count = 0
  const on = rateLimiter.on
  rateLimiter.on = (event, listener) => {
    const stop = on(event, listener)
    count++
    return () => { count--; stop() }
  }
  return () => count
}
