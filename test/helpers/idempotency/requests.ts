import type { FastifyInstance, FastifyRequest, RouteShorthandOptions } from 'fastify'

/** A route whose requests with a key run once. */
export const ON: RouteShorthandOptions = { config: { idempotency: true } }

/** The scope of apps whose callers differ by their address alone. */
export const byAddress = (request: FastifyRequest) => request.ip

/** Options with time-outs that pass only when the test advances the clock. */
export const PATIENT = { timeout: '1 day', wait: '1 hour', scope: byAddress } as const

export function post (app: FastifyInstance, url: string, key?: string, payload?: object | string, headers: Record<string, string> = {}) {
  return app.inject({ method: 'POST', url, headers: { ...key !== undefined && { 'idempotency-key': key }, ...headers }, ...payload !== undefined && { payload } })
}

/** A barrier that handlers wait at. */
export function gate (): { open: () => void, opened: Promise<void> } {
  let open = () => {}
  const opened = new Promise<void>(resolve => { open = resolve })
  return { open, opened }
}
