import type { FastifyInstance } from 'fastify'

/** Returns a function that counts the listeners added to the limiter since. */
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
