import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export interface Client {
  cookies: Record<string, string>
  send (method: Method, url: string, payload?: object): Promise<LightMyRequestResponse>
}

const ATTEMPTS = 20
const PAUSE_MS = 200

/** A client with cookies and its own address. As clients should, it retries after a 503: on a busy machine, replies may be late. */
export function client (app: FastifyInstance, remoteAddress: string): Client {
  const cookies: Record<string, string> = {}
  return {
    cookies,
    async send (method, url, payload) {
      for (let attempt = 1; ; attempt++) {
        const response = await app.inject({ method, url, cookies, remoteAddress, ...(payload && { payload }) })
        for (const { name, value } of response.cookies) cookies[name] = value
        if (response.statusCode !== 503 || attempt === ATTEMPTS) return response
        await sleep(PAUSE_MS)
      }
    }
  }
}
