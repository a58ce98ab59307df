// The second process of a heartbeat: it does nothing but beat, and answers how long it was not let run since a moment.
import { countStalls } from './stalls.js'

const { since } = countStalls()
process.on('message', (moment: number) => process.send?.(since(moment)))
process.send?.('ready')
