import type { FastifyInstance } from 'fastify'

/** Returns a function that counts the listeners that were added to the limiter since this call, and not removed. */
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
