import type { FastifyInstance, LightMyRequestResponse } from 'fastify'

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export interface Client {
  cookies: Record<string, string>
  send (method: Method, url: string, payload?: object): Promise<LightMyRequestResponse>
}

/** A client with cookies and an address of its own. */
export function client (app: FastifyInstance, remoteAddress: string): Client {
  const cookies: Record<string, string> = {}
  return {
    cookies,
    async send (method, url, payload) {
      const response = await app.inject({ method, url, cookies, remoteAddress, ...(payload && { payload }) })
      for (const { name, value } of response.cookies) cookies[name] = value
      return response
    }
  }
}
