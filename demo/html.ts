import type { FastifyReply } from 'fastify'

/** Text that is HTML already. */
export class Markup {
  readonly text: string

  constructor (text: string) {
    this.text = text
  }
}

type Value = string | number | Markup | readonly Markup[] | undefined

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }

/** Tags a template of HTML: values are escaped unless they are markup. */
export function html (strings: TemplateStringsArray, ...values: Value[]): Markup {
  return new Markup(strings.reduce((text, part, i) => text + markupOf(values[i - 1]) + part))
}

function markupOf (value: Value): string {
  if (value === undefined) return ''
  if (value instanceof Markup) return value.text
  if (typeof value === 'object') return value.map(({ text }) => text).join('')
  return String(value).replaceAll(/[&<>"']/g, character => ENTITIES[character] ?? character)
}

// Without scripts; its form sends searches to the shop.
const POLICY = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; " +
  "frame-ancestors 'none'"

/** Sends a page, with the security headers of documents. */
export function sendPage (reply: FastifyReply, { text }: Markup): FastifyReply {
  return reply.type('text/html; charset=utf-8').header('content-security-policy', POLICY).header(
    'x-content-type-options', 'nosniff'
  ).send(text)
}

/**
 * Returns whether a client prefers HTML to JSON, as browsers do. If both have the same weight, a type that is
 * named takes precedence over a wildcard. Without a preference the client gets JSON.
 *
 * @see RFC 9110 §12.5.1
 */
export function prefersHtml (accept: string | undefined): boolean {
  const ranges = new Map((accept ?? '*/*').toLowerCase().split(',').map(range => {
    const [type = '', ...parameters] = range.split(';').map(part => part.trim())
    const weight = Number(parameters.find(parameter => parameter.startsWith('q='))?.slice(2) ?? 1)
    return [type, weight] as const
  }))
  const weightOf = (...types: string[]) => types.map(type => ranges.get(type)).find(weight => weight !== undefined) ?? 0
  const html = weightOf('text/html', 'text/*', '*/*')
  const json = weightOf('application/json', 'application/*', '*/*')
  return html > json || (html > 0 && html === json && ranges.has('text/html') && !ranges.has('application/json'))
}
