export interface Answer {
  status: number
  /** Of the cache: HIT, MISS, …; empty where it was not asked. */
  cache: string
  /** Which instance answered. */
  instance: string
  ms: number
  body: Record<string, unknown>
}

/** Asks the demo. @throws where nothing is answered */
export async function send (method: 'GET' | 'POST' | 'DELETE', path: string, { body, credentials = 'same-origin' }: { body?: object, credentials?: RequestCredentials } = {}): Promise<Answer> {
  const began = performance.now()
  const response = await fetch(path, {
    method,
    credentials,
    cache: 'no-store',
    ...body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }
  })
  const answered: Record<string, unknown> = await response.json()
  const header = (name: string) => response.headers.get(name) ?? ''
  return { status: response.status, cache: header('x-cache'), instance: header('x-instance'), ms: performance.now() - began, body: answered }
}
