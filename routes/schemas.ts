import { Type, type TSchema, type TStringOptions } from 'typebox'

// Schemas that several resources share.

export const ErrorBody = Type.Object({
  statusCode: Type.Integer(), code: Type.Optional(Type.String()), error: Type.String(), message: Type.String()
})

/**
 * An integer in a request. Ajv converts the text "Infinity" to a number, and checks the bounds of finite numbers only:
 * a second check of the type refuses it.
 */
export const Whole = (options: { minimum: number, maximum: number, default?: number, examples?: number[] }) =>
  Type.Integer({ ...options, allOf: [{ type: 'integer' }] })

/** An id in the range of the database's integer type: a larger one would fail the statement. */
export const Id = Whole({ minimum: 1, maximum: 2 ** 31 - 1, examples: [1] })

export const IdParams = Type.Object({ id: Id })

/** Text without NUL, which PostgreSQL does not store. */
export const Text = (options: Omit<TStringOptions, 'pattern'>) => Type.String({ ...options, pattern: '^[^\\u0000]*$' })

export const Paging = {
  limit: Whole({ minimum: 1, maximum: 100, default: 20 }),
  offset: Whole({ minimum: 0, maximum: 100_000, default: 0 })
}

export const Product = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  description: Type.String(),
  category: Type.String(),
  priceCents: Type.Integer(),
  stock: Type.Integer(),
  updatedAt: Type.String({ format: 'date-time' })
})

export const PlacedOrder = Type.Object({ orderId: Type.Integer(), totalCents: Type.Integer() })

/**
 * The headers of routes with `config.idempotency`, which validates the key itself. The example is another one for each
 * route, as a key is.
 */
export const idempotencyHeaders = (example: string) => Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      description: 'A unique key, such as a UUID: a retry with the same key receives the first response',
      examples: [example]
    })
  )
})

/** The columns of a {@link Product}, for SELECT and RETURNING. */
export const PRODUCT_COLUMNS =
  'id, name, description, category, price_cents AS "priceCents", stock, updated_at AS "updatedAt"'

export const User = Type.Object({ id: Type.Integer(), email: Type.String(), name: Type.String() })

/** A session, in the form that its user sees. */
export const Device = Type.Object({
  handle: Type.String(),
  createdAt: Type.String(),
  lastSeenAt: Type.String(),
  address: Type.Optional(Type.String()),
  userAgent: Type.Optional(Type.String()),
  current: Type.Boolean()
})

/** Converts the timestamps of `fastify.sessions` to ISO 8601. */
export function asDevice<T extends { createdAt: number, lastSeenAt: number }> (
  info: T
): Omit<T, 'createdAt' | 'lastSeenAt'> & { createdAt: string, lastSeenAt: string } {
  return {
    ...info, createdAt: new Date(info.createdAt).toISOString(), lastSeenAt: new Date(info.lastSeenAt).toISOString()
  }
}

/** The `security` of a route that requires a login. */
export const LOGGED_IN = [{ session: [] }]

/** The `security` of a route for admins. */
export const ADMIN = [{ admin: [] }]

const REFUSALS = {
  401: 'The caller is not logged in, or the password is wrong.',
  403: 'The caller may not do that.',
  404: 'There is no such thing.',
  409: 'The present state does not allow it; `message` says why.',
  423: 'Another request holds the lock.'
}

const described = <T extends TSchema>(schema: T, description: string): T => ({ ...schema, description })

/**
 * The schemas of a route's 200, and of the errors that the error handler sends.
 *
 * @param statuses - errors that the route's own handler sends
 */
export function responses <T extends TSchema> (
  ok: T, description = 'The result.', ...statuses: Array<keyof typeof REFUSALS>
): { 200: T, 429: typeof ErrorBody, '4xx': typeof ErrorBody, '5xx': typeof ErrorBody } {
  return {
    200: described(ok, description),
    ...Object.fromEntries(statuses.map(status => [status, described(ErrorBody, REFUSALS[status])])),
    429: described(ErrorBody, 'There were too many requests; `Retry-After` names the seconds until the next one.'),
    '4xx': described(ErrorBody, 'The request is refused; `message` says why.'),
    '5xx': described(
      ErrorBody,
      'The demo, or a store that the route needs, is unavailable; `Retry-After` names the seconds until a retry.'
    )
  }
}

/** As {@link responses}, of a route whose 200 is JSON, or a page for browsers. */
export function negotiated <T extends TSchema> (ok: T, description: string, ...statuses: Array<keyof typeof REFUSALS>) {
  const content = { 'application/json': { schema: ok }, 'text/html': { schema: Type.String() } }
  return {
    ...responses(ok, description, ...statuses),
    200: { description: `${description} Clients that prefer HTML receive a page.`, content }
  }
}
