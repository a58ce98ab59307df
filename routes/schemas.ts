import { Type, type TSchema, type TStringOptions } from 'typebox'

// What several resources say in the same words.

export const ErrorBody = Type.Object({ statusCode: Type.Integer(), code: Type.Optional(Type.String()), error: Type.String(), message: Type.String() })

/**
 * An integer that a request gives. Ajv makes a number of the text "Infinity" and looks at the bounds of finite ones only:
 * its type is looked at again, which refuses it.
 */
export const Whole = (options: { minimum: number, maximum: number, default?: number }) => Type.Integer({ ...options, allOf: [{ type: 'integer' }] })

/** An id as the database has them: what is larger than its integer would be an error of the statement. */
export const Id = Whole({ minimum: 1, maximum: 2 ** 31 - 1 })

export const IdParams = Type.Object({ id: Id })

/** Text for the database, which knows no NUL in it. */
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

/** Of routes with `config.idempotency`, which looks at it more closely. */
export const IdempotencyHeaders = Type.Object({
  'idempotency-key': Type.Optional(Type.String({ description: 'Unlike any other, such as a UUID: what comes again with it has the first answer' }))
})

/** The columns of a {@link Product}, for SELECT and RETURNING. */
export const PRODUCT_COLUMNS = 'id, name, description, category, price_cents AS "priceCents", stock, updated_at AS "updatedAt"'

export const User = Type.Object({ id: Type.Integer(), email: Type.String(), name: Type.String() })

/** A session as its user is shown it. */
export const Device = Type.Object({
  handle: Type.String(),
  createdAt: Type.String(),
  lastSeenAt: Type.String(),
  address: Type.Optional(Type.String()),
  userAgent: Type.Optional(Type.String()),
  current: Type.Boolean()
})

/** Of the times that `fastify.sessions` tells as numbers, dates. */
export function asDevice<T extends { createdAt: number, lastSeenAt: number }> (info: T): Omit<T, 'createdAt' | 'lastSeenAt'> & { createdAt: string, lastSeenAt: string } {
  return { ...info, createdAt: new Date(info.createdAt).toISOString(), lastSeenAt: new Date(info.lastSeenAt).toISOString() }
}

/** The answer 200, and errors in the one form that the error handler gives them. */
export function answers <T extends TSchema> (ok: T): { 200: T, '4xx': typeof ErrorBody, '5xx': typeof ErrorBody } {
  return { 200: ok, '4xx': ErrorBody, '5xx': ErrorBody }
}
