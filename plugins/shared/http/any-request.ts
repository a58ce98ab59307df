import type { FastifyReply, FastifyRequest, RawServerBase, RouteGenericInterface } from 'fastify'

/** A request to any server of Fastify. `FastifyRequest` without arguments is the type for HTTP/1.1 only. */
export type AnyRequest = FastifyRequest<RouteGenericInterface, RawServerBase>

/** The reply to an {@link AnyRequest}. */
export type AnyReply = FastifyReply<RouteGenericInterface, RawServerBase>
