import { BlockList, isIP } from 'node:net'
import type { FastifyRequest } from 'fastify'
import ipaddr from 'ipaddr.js'

// `[2001:db8::1]:50001`, `[2001:db8::1]` and `192.0.2.1:50001`: some proxies add the port to X-Forwarded-For, which
// differs from connection to connection.
const WITH_PORT = /^(?:\[([^\]]+)\](?::\d{1,5})?|(\d{1,3}(?:\.\d{1,3}){3}):\d{1,5})$/

/**
 * Returns one form for all spellings of an address, without a port. IPv4-mapped IPv6 becomes IPv4. IPv6 becomes its
 * subnet: one customer commonly has a whole /64, which is 2^64 addresses. Other text is returned in lower case.
 *
 * @param ipv6Subnet - length of the prefix in bits, 0 to 128
 * @see RFC 6177
 */
export function normalizeIP (ip: string, ipv6Subnet = 64): string {
  if (!ip.includes(':')) return ip.toLowerCase()
  const [, inBrackets, beforePort] = WITH_PORT.exec(ip) ?? []
  if (beforePort !== undefined) return beforePort
  const address = parseIPv6(inBrackets ?? ip)
  if (address === undefined) return ip.toLowerCase()
  if (address.isIPv4MappedAddress()) return address.toIPv4Address().toString()
  return maskIPv6(address, ipv6Subnet)
}

function parseIPv6 (ip: string): ipaddr.IPv6 | undefined {
  // A zone (`fe80::1%eth0`) names an interface of this machine, not a client.
  const [bare = ''] = ip.split('%', 1)
  return ipaddr.IPv6.isValid(bare) ? ipaddr.IPv6.parse(bare) : undefined
}

function maskIPv6 (address: ipaddr.IPv6, prefix: number): string {
  const bytes = address.toByteArray().map((byte, i) => byte & (0xff << Math.max(0, 8 - Math.max(0, prefix - i * 8))))
  const masked = ipaddr.fromByteArray(bytes)
  return masked.toString()
}

// Not a valid address.
const UNIX_SOCKET = 'unix'
const warned = new WeakSet<object>()

/**
 * Returns the key of a request's address. Requests over a Unix socket have an address only if a trusted proxy names it.
 * Without it they share one key, as do those of a proxy that Fastify does not trust, which is logged once.
 */
export function ipKey (request: FastifyRequest, ipv6Subnet: number): string {
  const { ip }: { ip: string | undefined } = request
  const isSuspect = ip === undefined || request.raw.headers['x-forwarded-for'] !== undefined
  if (isSuspect && !warned.has(request.server.server)) {
    if (ip === undefined) {
      warnOnce(request, 'requests over a Unix socket have no address, so all of them share one limit: ' +
        'set Fastify\'s trustProxy, or the option "keyGenerator"')
    } else if (isFromUntrustedProxy(request)) {
      warnOnce(request, `X-Forwarded-For from ${ip} is not trusted, so all clients of this proxy share one limit: ` +
        'set Fastify\'s option trustProxy to its address, or the option "keyGenerator"')
    }
  }
  return ip === undefined ? UNIX_SOCKET : normalizeIP(ip, ipv6Subnet)
}

function warnOnce (request: FastifyRequest, message: string): void {
  request.log.warn({ plugin: 'rate-limit' }, `rate-limit: ${message} (logged once)`)
  warned.add(request.server.server)
}

/** Only a loopback or private address counts as a proxy's, as any client on the internet may send the header itself. */
function isFromUntrustedProxy ({ ip, ips }: FastifyRequest): boolean {
  if ((ips !== undefined && ips.length > 1) || !ipaddr.isValid(ip)) return false
  return ['loopback', 'private', 'uniqueLocal', 'linkLocal'].includes(ipaddr.process(ip).range())
}

/** Returns a function that tests whether an address is in the list, or undefined where `entries` contain no address. */
export function createIpList (entries: readonly string[]): ((ip: string | undefined) => boolean) | undefined {
  const list = new BlockList()
  let size = 0
  for (const entry of entries) size += addTo(list, entry)
  if (size === 0) return undefined
  return ip => {
    if (ip === undefined) return false
    const address = normalizeIP(ip, 128)
    const version = isIP(address)
    return version !== 0 && list.check(address, version === 6 ? 'ipv6' : 'ipv4')
  }
}

/** Whether an entry of a list looks like a range and is not one, such as `10.0.0.0/33`. It would match nothing. */
export function isInvalidRange (entry: string): boolean {
  const [address = '', prefix] = entry.split('/')
  return prefix !== undefined && isIP(address) !== 0 && addTo(new BlockList(), entry) === 0
}

function addTo (list: BlockList, entry: string): number {
  const [address = '', prefix, rest] = entry.split('/')
  const version = isIP(address)
  if (version === 0 || rest !== undefined) return 0
  const family = version === 6 ? 'ipv6' : 'ipv4'
  if (prefix === undefined) list.addAddress(address, family)
  else if (!/^\d{1,3}$/.test(prefix) || Number(prefix) > (version === 6 ? 128 : 32)) return 0
  else list.addSubnet(address, Number(prefix), family)
  return 1
}
