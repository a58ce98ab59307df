/** A response of the demo. */
export interface ApiResponse<T = unknown> {
  status: number
  /** The `X-Cache` header: HIT, MISS, …; empty if the cache was not used. */
  cache: string
  /** The instance that responded. */
  instance: string
  ms: number
  /** An error has a body of another type: check the status first. */
  body: T
}

interface SendOptions {
  body?: object
  credentials?: RequestCredentials
}

/** Sends a request to the demo. @throws if there is no response */
export async function send<T> (
  method: 'GET' | 'POST' | 'DELETE', path: string, { body, credentials = 'same-origin' }: SendOptions = {}
): Promise<ApiResponse<T>> {
  const began = performance.now()
  const response = await fetch(path, {
    method,
    credentials,
    cache: 'no-store',
    ...body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }
  })
  const parsed: T = await response.json()
  const header = (name: string) => response.headers.get(name) ?? ''
  return { status: response.status, cache: header('x-cache'), instance: header('x-instance'), ms: performance.now() - began, body: parsed }
}
