import { lua } from '../shared/redis/script.js'

/**
 * Acquires a key that is free.
 *
 * KEYS[1]  the key: a hash of `print` (fingerprint) and `token` of its request; with a response also of `head` and
 *          `body`
 * ARGV     fingerprint, token, lease (ms)
 * reply    { 'acquired' }, { 'inProgress' }, { 'mismatch', fingerprint } or { 'stored', head, body or nil }
 */
export const acquireScript = lua`
local print, token, head, body = unpack(redis.call('HMGET', KEYS[1], 'print', 'token', 'head', 'body'))
if not print then
  redis.call('HSET', KEYS[1], 'print', ARGV[1], 'token', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'acquired' }
end
if print ~= ARGV[1] then return { 'mismatch', print } end
if head then return { 'stored', head, body } end
return { token == ARGV[2] and 'acquired' or 'inProgress' }
`

/**
 * Renews the lease of a key.
 *
 * KEYS[1]  the key
 * ARGV     token, lease (ms)
 * reply    1; 0 if the key belongs to another request or has a response
 */
export const renewScript = lua`
local token, head = unpack(redis.call('HMGET', KEYS[1], 'token', 'head'))
if token ~= ARGV[1] or head then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`

/**
 * Stores a response; a repeated call changes nothing but the TTL.
 *
 * KEYS[1]  the key
 * ARGV     token, fingerprint, TTL (ms), head, and the body if there is one
 * reply    1; 0 if the key belongs to another request
 */
export const completeScript = lua`
local print, token = unpack(redis.call('HMGET', KEYS[1], 'print', 'token'))
if print and token ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'print', ARGV[2], 'token', ARGV[1], 'head', ARGV[4])
if ARGV[5] then redis.call('HSET', KEYS[1], 'body', ARGV[5]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
`

/**
 * Frees a key. A stored response is removed only if it is retracted.
 *
 * KEYS[1]  the key
 * ARGV     token, 1 to retract
 */
export const releaseScript = lua`
local token, head = unpack(redis.call('HMGET', KEYS[1], 'token', 'head'))
if token == ARGV[1] and (not head or ARGV[2] == '1') then redis.call('DEL', KEYS[1]) end
`
