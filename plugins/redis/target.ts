import type { ClusterNode } from 'ioredis'
import { CLIENT_ALLOWED, describeForeign, isRedisClient } from '../shared/redis/client.js'
import { InWords, invalidOptionError } from '../shared/plugin/errors.js'
import type { RedisPluginOptions } from './options.js'

const URL_ALLOWED = 'redis://host:port or rediss://host:port, with % / ? # and @ of a user and password written as ' +
  '%25 %2F %3F %23 and %40; for a Unix socket the option path'
const HOST_ALLOWED = 'the name or address of a host alone; what begins with redis:// is the option url'
/** Stands for a URL or a host in errors. */
const HIDDEN = new InWords('a string that is not shown, as it may hold a password')
const GIVEN_TOGETHER = new InWords('given together')

/**
 * Checks the address of Redis. Errors do not repeat a URL, as it may contain a password.
 *
 * @returns the option `url` in its normal form
 * @throws `FST_REDIS_SUITE_REDIS_INVALID_OPTION`
 */
export function checkTarget (options: RedisPluginOptions): string | undefined {
  const { client, cluster, sentinels, url } = options
  checkAlternatives(options)
  if (client !== undefined && !isRedisClient(client)) fail('client', describeForeign(client), CLIENT_ALLOWED)
  if (cluster !== undefined) checkCluster(cluster.nodes, [cluster.options?.redisOptions?.db])
  if (sentinels !== undefined) checkSentinels(options)
  checkHost('host', options.host)
  checkDb(options.db)
  return url === undefined ? undefined : checkUrl(url, options)
}

/** Refuses several targets, and options that would have no effect with the target. */
function checkAlternatives (options: RedisPluginOptions): void {
  const { url, cluster, client, sentinels, host, path } = options
  const targets = namesOf({ url, cluster, client, sentinels, host, path })
  if (targets.length > 1) {
    fail(targets.join(' + '), GIVEN_TOGETHER, 'only one of url, host or path, cluster, sentinels, client')
  }
  const { port, db, name, username, password, tls } = options
  const [target] = targets
  if (sentinels === undefined && name !== undefined) fail('name', name, 'a name beside sentinels only')
  if (port !== undefined && target !== undefined && target !== 'host') {
    fail(`${target} + port`, GIVEN_TOGETHER, 'a port beside host only')
  }
  if (cluster !== undefined && db !== undefined && db !== 0) {
    fail('cluster + db', GIVEN_TOGETHER, 'no db, as a Cluster has database 0 alone')
  }
  const { driver, clientOptions } = options
  if (clientOptions !== undefined && (client !== undefined || driver !== 'node-redis')) {
    fail('clientOptions', new InWords('given'), 'left out, except where driver: \'node-redis\' makes the client')
  }
  const ignored = namesOf({ db, username, password, tls })[0]
  if (client !== undefined && ignored !== undefined) {
    fail(`client + ${ignored}`, GIVEN_TOGETHER, `${ignored} where the client is created`)
  }
}

function checkCluster (nodes: unknown, dbs: readonly unknown[]): void {
  if (!Array.isArray(nodes) || nodes.length === 0) {
    fail('cluster.nodes', nodes, 'a list of { host, port } with at least one node')
  }
  for (const [i, node] of (nodes as ClusterNode[]).entries()) {
    const isText = typeof node === 'string'
    if (isText) checkNodeUrl(node, i)
    else checkHost(`cluster.nodes[${i}].host`, hostOf(node))
    if (typeof node === 'object' && node !== null && Reflect.get(node, 'db') !== undefined) {
      fail(`cluster.nodes[${i}].db`, Reflect.get(node, 'db'), 'no db, as a Cluster has database 0 alone')
    }
  }
  for (const db of dbs) {
    if (db !== undefined && db !== 0) {
      fail('cluster.options.redisOptions.db', db, 'no db, as a Cluster has database 0 alone')
    }
  }
}

function checkNodeUrl (node: string, i: number): void {
  const name = `cluster.nodes[${i}]`
  const url = parse(node.includes('://') ? node : `redis://${node}`)
  if (url === undefined) return fail(name, HIDDEN, '{ host, port }, host:port or redis://host:port')
  if (dbOf(url) !== undefined) fail(name, HIDDEN, 'no database after the host, as a Cluster has database 0 alone')
}

function checkSentinels ({ sentinels, name }: RedisPluginOptions): void {
  if (!Array.isArray(sentinels) || sentinels.length === 0) {
    fail('sentinels', sentinels, 'a list of { host, port } with at least one Sentinel')
  }
  for (const [i, sentinel] of (sentinels as unknown[]).entries()) {
    if (typeof sentinel !== 'object' || sentinel === null) fail(`sentinels[${i}]`, HIDDEN, '{ host, port }')
    checkHost(`sentinels[${i}].host`, hostOf(sentinel))
  }
  if (typeof name !== 'string' || name === '') fail('name', name, 'the name by which the Sentinels know the master')
}

function hostOf (node: unknown): unknown {
  return typeof node === 'object' && node !== null ? Reflect.get(node, 'host') : undefined
}

/** Refuses a URL in place of a host: it may contain a password, which the log would show in the address. */
function checkHost (option: string, host: unknown): void {
  if (host !== undefined && (typeof host !== 'string' || /[/@?#\s]/.test(host))) {
    fail(option, typeof host === 'string' ? HIDDEN : host, HOST_ALLOWED)
  }
}

function checkDb (db: unknown): void {
  if (db !== undefined && !isDb(db)) fail('db', db, 'the number of a database, a whole number from 0')
}

/** Checks a URL, and returns it without blanks around it. */
function checkUrl (given: unknown, { db, username, password, tls }: RedisPluginOptions): string {
  const url = typeof given === 'string' ? parse(given) : undefined
  if (url === undefined) {
    return fail('url', typeof given === 'string' && given !== '' ? unusable(given) : given, URL_ALLOWED)
  }
  if (!isDecodable(url.username) || !isDecodable(url.password)) {
    fail('url', HIDDEN, 'a user and password in which each % is written as %25')
  }
  const tail = url.pathname + url.search
  if (url.hash !== '' || tail.includes('@')) {
    fail('url', HIDDEN, 'a user and password in which / ? # and @ are written as %2F %3F %23 %40')
  }
  const inUrl = dbOf(url)
  if (inUrl === 'invalid') fail('url', HIDDEN, 'the number of a database after the host, as redis://host:port/1')
  if (inUrl !== undefined && db !== undefined) {
    fail('url + db', GIVEN_TOGETHER, 'the database in the url, or the option db')
  }
  const hasCredentials = url.username !== '' || url.password !== ''
  const beside = namesOf({ username, password })[0]
  if (hasCredentials && beside !== undefined) {
    fail(`url + ${beside}`, GIVEN_TOGETHER, 'user and password in the url, or as options')
  }
  const isPlain: unknown = tls
  if (url.protocol === 'rediss:' && (isPlain === false || isPlain === null)) {
    fail('url + tls', GIVEN_TOGETHER, 'redis:// for a connection without TLS')
  }
  return url.href
}

/** Describes an invalid URL by its scheme before `://` only: `ann:password@host` begins with the user. */
function unusable (url: string): InWords {
  const [, scheme] = /^\s*([a-z][a-z\d+.-]{0,20}):\/\//i.exec(url) ?? []
  return scheme === undefined
    ? HIDDEN
    : new InWords(`a string that begins with ${scheme}:// (the rest is not shown, as it may hold a password)`)
}

function parse (text: string): URL | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined
  return url !== undefined && /^rediss?:\/\//.test(url.href) ? url : undefined
}

function isDecodable (text: string): boolean {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

/** Returns the number of the database in a URL, or `'invalid'` for two of them or another text. */
function dbOf ({ pathname, searchParams }: URL): number | 'invalid' | undefined {
  const texts = [...pathname === '' || pathname === '/' ? [] : [pathname.slice(1)], ...searchParams.getAll('db')]
  const [text] = texts
  if (text === undefined) return undefined
  return texts.length === 1 && /^\d+$/.test(text) && isDb(Number(text)) ? Number(text) : 'invalid'
}

function isDb (db: unknown): boolean {
  return typeof db === 'number' && Number.isInteger(db) && db >= 0 && db < 2 ** 31
}

function namesOf (options: Record<string, unknown>): string[] {
  return Object.entries(options).filter(([, value]) => value !== undefined).map(([name]) => name)
}

function fail (option: string, given: unknown, allowed: string): never {
  throw invalidOptionError('redis', option, given, allowed)
}
