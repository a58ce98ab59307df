/** A response of the demo. */
export interface ApiResponse<T = unknown> {
  status: number
  /** The `X-Cache` header: HIT, MISS, …; empty if the cache was not used. */
  cache: string
  /** The instance that responded. */
  instance: string
  ms: number
  /** Whether the response is the stored one of an earlier request with the same idempotency key. */
  replayed: boolean
  /** An error has a body of another type: check the status first. */
  body: T
}

interface SendOptions {
  body?: object
  credentials?: RequestCredentials
  headers?: Record<string, string>
  /** Gives up the response; the demo may handle the request nevertheless. */
  signal?: AbortSignal
}

/** Sends a request to the demo. @throws if there is no response */
export async function send<T> (
  method: 'GET' | 'POST' |
    'DELETE', path: string, { body, credentials = 'same-origin', headers, signal }: SendOptions = {}
): Promise<ApiResponse<T>> {
  const began = performance.now()
  const response = await fetch(path, {
    method,
    credentials,
    cache: 'no-store',
    headers: { ...headers, ...body !== undefined && { 'content-type': 'application/json' } },
    ...body !== undefined && { body: JSON.stringify(body) },
    ...signal && { signal }
  })
  const parsed: T = await response.json()
  const header = (name: string) => response.headers.get(name) ?? ''
  return {
    status: response.status,
    cache: header('x-cache'),
    instance: header('x-instance'),
    ms: performance.now() - began,
    replayed: header('idempotency-replayed') === 'true',
    body: parsed
  }
}
