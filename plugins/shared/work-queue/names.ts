/** The names of queues and groups: they are parts of Redis keys. */
export const QUEUE_NAME = /^[\w.-]{1,64}$/
export const QUEUE_NAME_ALLOWED = 'up to 64 letters, digits and . _ -'

const MAX_KEY_LENGTH = 1024
export const MESSAGE_KEY_ALLOWED = `a string of 1 to ${MAX_KEY_LENGTH} characters`

export function isQueueName (name: unknown): name is string {
  return typeof name === 'string' && QUEUE_NAME.test(name)
}

/** Whether a value can be the key of a message, by which its partition is chosen. */
export function isMessageKey (key: unknown): key is string {
  return typeof key === 'string' && key !== '' && key.length <= MAX_KEY_LENGTH
}
