export interface Answer<T = unknown> {
  status: number
  /** Of the cache: HIT, MISS, …; empty where it was not asked. */
  cache: string
  /** Which instance answered. */
  instance: string
  ms: number
  /** Of an error it is something else: see the status. */
  body: T
}

/** Asks the demo. @throws where nothing is answered */
export async function send<T> (method: 'GET' | 'POST' | 'DELETE', path: string, { body, credentials = 'same-origin' }: { body?: object, credentials?: RequestCredentials } = {}): Promise<Answer<T>> {
  const began = performance.now()
  const response = await fetch(path, {
    method,
    credentials,
    cache: 'no-store',
    ...body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }
  })
  const answered: T = await response.json()
  const header = (name: string) => response.headers.get(name) ?? ''
  return { status: response.status, cache: header('x-cache'), instance: header('x-instance'), ms: performance.now() - began, body: answered }
}
