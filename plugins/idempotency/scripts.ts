import { lua } from '../shared/redis/script.js'

/**
 * Takes a key, where nobody has it.
 *
 * KEYS[1]  the key: a hash of `print` (fingerprint) and `token` of whom it belongs to; once answered of `head` and `body` as well
 * ARGV     fingerprint, token, lease (ms)
 * reply    { 'mine' }, { 'theirs' }, { 'other', fingerprint } or { 'done', head, body or nil }
 */
export const claimScript = lua`
local print, token, head, body = unpack(redis.call('HMGET', KEYS[1], 'print', 'token', 'head', 'body'))
if not print then
  redis.call('HSET', KEYS[1], 'print', ARGV[1], 'token', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'mine' }
end
if print ~= ARGV[1] then return { 'other', print } end
if head then return { 'done', head, body } end
return { token == ARGV[2] and 'mine' or 'theirs' }
`

/**
 * Keeps a claim.
 *
 * KEYS[1]  the key
 * ARGV     token, lease (ms)
 * reply    1, or 0 where it is not this one's any more
 */
export const renewScript = lua`
local token, head = unpack(redis.call('HMGET', KEYS[1], 'token', 'head'))
if token ~= ARGV[1] or head then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`

/**
 * Adds the answer to the claim, which it may have done before.
 *
 * KEYS[1]  the key
 * ARGV     token, fingerprint, TTL (ms), head, and body where there is one
 * reply    1, or 0 where it is somebody else's
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
 * Gives a claim back. A stored response is removed where it is retracted, and stays otherwise.
 *
 * KEYS[1]  the key
 * ARGV     token, 1 to retract
 */
export const releaseScript = lua`
local token, head = unpack(redis.call('HMGET', KEYS[1], 'token', 'head'))
if token == ARGV[1] and (not head or ARGV[2] == '1') then redis.call('DEL', KEYS[1]) end
`
