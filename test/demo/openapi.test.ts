import t, { type Test } from 'tap'
import Schema from 'typebox/schema'
import { OwnRedis } from '../../demo/own-redis.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { startShop } from '../helpers/demo/start-shop.js'
import { sharedRedis } from '../helpers/index.js'

interface Media { schema?: object, example?: unknown, examples?: Record<string, { value: unknown }> }
interface Parameter extends Media { in: 'path' | 'query' | 'header', name: string, required?: boolean }
interface Operation {
  summary?: string
  tags?: string[]
  parameters?: Parameter[]
  security?: Array<Record<string, string[]>>
  requestBody?: { required?: boolean, content: Record<string, Media> }
  responses: Record<string, { description: string, content?: Record<string, Media> }>
}
interface OpenApi {
  info: { description: string }
  tags: Array<{ name: string, description: string }>
  components: { securitySchemes: Record<string, { in: string, name: string, description: string }> }
  paths: Record<string, Record<string, Operation>>
}

const ownRedis = await OwnRedis.start()
t.teardown(() => ownRedis.stop())
const { url } = await sharedRedis()
/** Operations that need what another one leaves, in this order; all others come between them. */
const FIRST = ['POST /cart/items', 'POST /orders', 'POST /sale/{productId}', 'POST /sale/{productId}/buy']
const LAST = ['DELETE /me/sessions', 'POST /logout']
/** The stream of events has no end. */
const ENDLESS = ['GET /live']

function examplesOf ({ example, examples = {} }: Media): unknown[] {
  return [...example === undefined ? [] : [example], ...Object.values(examples).map(({ value }) => value)]
}

function operationsOf ({ paths }: OpenApi): Array<{ name: string, method: string, path: string, operation: Operation }> {
  const all = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ name: `${method.toUpperCase()} ${path}`, method: method.toUpperCase(), path, operation })))
  const rank = (name: string) => FIRST.includes(name) ? FIRST.indexOf(name) : LAST.includes(name) ? 1000 + LAST.indexOf(name) : 500
  return all.filter(({ name }) => !ENDLESS.includes(name)).sort((a, b) => rank(a.name) - rank(b.name))
}

for (const [store, options] of Object.entries({ 'in-process stores': {}, Redis: { env: { REDIS_URL: url } }, 'a Redis of its own': { ownRedis } })) {
  t.test(`on ${store} each operation of the OpenAPI document works with its examples, and responds as described`, async t => {
    const [app] = await startShop(t as Test, options)
    const api = (await app.inject('/docs/json')).json<OpenApi>()
    const cookies: Record<string, Record<string, string>> = { anonymous: {}, session: {}, admin: {} }

    /** Sends a request as a caller with that security scheme. */
    async function send (scheme: string, method: string, url: string, headers: Record<string, string> = {}, payload?: object) {
      const response = await app.inject({ method: method as 'GET', url, headers, cookies: cookies[scheme] ?? {}, ...payload !== undefined && { payload } })
      for (const { name, value } of response.cookies) cookies[scheme] = { ...cookies[scheme], [name]: value }
      return response
    }

    // The examples of the login are one for each security scheme.
    const logins = examplesOf(api.paths['/login']?.['post']?.requestBody?.content['application/json'] ?? {}) as object[]
    t.same(logins, [{ email: 'user1@example.com', password: DEMO_PASSWORD }, { email: 'admin@example.com', password: DEMO_PASSWORD }])
    for (const [i, scheme] of ['session', 'admin'].entries()) await send(scheme, 'POST', '/login', {}, logins[i])
    for (const { in: place, name, description } of Object.values(api.components.securitySchemes)) t.match([place, cookies['session']?.[name], description], ['cookie', String, /\w/])
    const devices = (await send('session', 'GET', '/me/sessions')).json<Array<{ handle: string }>>()
    const other = (await app.inject({ method: 'POST', url: '/login', payload: logins[0] as object })).statusCode === 200 &&
      (await send('session', 'GET', '/me/sessions')).json<Array<{ handle: string }>>().find(({ handle }) => handle !== devices[0]?.handle)

    const operations = operationsOf(api)
    t.ok(operations.length >= 25)
    for (const { name, method, path, operation } of operations) {
      const { parameters = [], requestBody, responses, security, summary, tags } = operation
      t.match([summary, tags?.every(tag => api.tags.some(one => one.name === tag && one.description !== ''))], [/\w/, true], `${name} has a summary and described tags`)
      t.same(Object.values(responses).filter(({ description }) => !/^[A-Z].*\.$/.test(description)).map(({ description }) => description), [], `${name} describes its responses`)

      let url = path
      const query = new URLSearchParams()
      const headers: Record<string, string> = {}
      for (const parameter of parameters) {
        // Only its owner knows a handle: the description names where it is shown.
        const value = parameter.name === 'handle' && other !== undefined && other !== false ? other.handle : examplesOf(parameter)[0]
        if (value === undefined) {
          t.not(parameter.required, true, `${name}: the required parameter ${parameter.name} has an example`)
          continue
        }
        if (parameter.in === 'path') url = url.replace(`{${parameter.name}}`, encodeURIComponent(String(value)))
        if (parameter.in === 'query') query.set(parameter.name, String(value))
        if (parameter.in === 'header') headers[parameter.name] = String(value)
      }
      const bodies = requestBody === undefined ? [undefined] : examplesOf(requestBody.content['application/json'] ?? {})
      t.ok(bodies.length > 0, `${name}: the body has an example`)
      const scheme = Object.keys(security?.[0] ?? { session: [] })[0] ?? ''
      for (const body of bodies) {
        // A login of the admin must not replace the user's session.
        const caller = path === '/login' ? 'visitor' : scheme
        const response = await send(caller, method, query.size === 0 ? url : `${url}?${query}`, headers, body as object)
        const described = responses[String(response.statusCode)]
        t.ok(response.statusCode >= 200 && response.statusCode < 300 && described !== undefined, `${name} ${JSON.stringify(body) ?? ''}: ${response.statusCode} ${response.body.slice(0, 200)}`)
        const [type = ''] = String(response.headers['content-type']).split(';')
        const schema = described?.content?.[type]?.schema
        if (type === 'application/json' && schema !== undefined) t.ok(Schema.Check(schema, response.json()), `${name}: the body is as described`)
      }
      if (security !== undefined) {
        const refused = await send('anonymous', method, query.size === 0 ? url : `${url}?${query}`, headers, bodies[0] as object)
        t.ok([401, 403].includes(refused.statusCode) && responses[String(refused.statusCode)] !== undefined, `${name} without a login: ${refused.statusCode}, which is described`)
        cookies['anonymous'] = {}
      }
    }
  })
}

t.test('the document shows the password, and no parameter with a default is required', async t => {
  const [app] = await startShop(t)
  const api = (await app.inject('/docs/json')).json<OpenApi>()
  t.match(api.info.description, new RegExp(DEMO_PASSWORD))
  const parameters = Object.values(api.paths).flatMap(methods => Object.values(methods)).flatMap(({ parameters = [] }) => parameters)
  t.same(parameters.filter(({ required, schema }) => required === true && schema !== undefined && 'default' in schema).map(({ name }) => name), [])
  t.ok(parameters.some(({ schema }) => schema !== undefined && 'default' in schema))
})
