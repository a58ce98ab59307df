import { validateHeaderName, validateHeaderValue } from 'node:http'

/** Whether Node.js can send these headers. Otherwise the response becomes an error, and must not be stored. */
export function areSendable (headers: Readonly<Record<string, unknown>>): boolean {
  try {
    for (const name in headers) {
      const value = headers[name]
      if (value === undefined) continue
      validateHeaderName(name)
      for (const each of Array.isArray(value) ? value : [value]) validateHeaderValue(name, each as string)
    }
    return true
  } catch {
    return false
  }
}
