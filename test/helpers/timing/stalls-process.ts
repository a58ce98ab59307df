// The second process of a heartbeat: it only beats, and reports for how long the machine did not run it since a moment.
import { countStalls } from './stalls.js'

const { since } = countStalls()
process.on('message', (moment: number) => process.send?.(since(moment)))
process.send?.('ready')
