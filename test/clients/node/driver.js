// node-postgres and postgres.js: their statements, run at one address; prints a JSON line for each case. The arguments are those of
// drivers.py: DRIVER URL FIRST_DAY, DRIVER URL hold STATEMENT, or DRIVER URL live CHANNEL.
'use strict'

const WHERE = "symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '$A' and ts < '$B'"
const TEXT = 'select ts, close, volume from ohlcv where symbol = $1 and timeframe = $2 and ts >= $3 and ts < $4 order by ts'
const BEFORE = 700
const TIMEOUT = 700
const ROUNDS = 5

let day
function next () {
  const start = new Date(day)
  day = new Date(day.getTime() + 86400e3)
  return [start.toISOString(), new Date(start.getTime() + 7200e3).toISOString()]
}
function where () {
  const [a, b] = next()
  return WHERE.replace('$A', a).replace('$B', b)
}
function tell (name, answer, ms) {
  console.log(JSON.stringify({ case: name, answer, ...(ms === undefined ? {} : { ms: Math.round(ms * 10) / 10 }) }))
}
function failure (error) { return [error.code || null, error.message, error.position || null] }
async function failing (name, run) {
  try {
    await run()
    tell(name, 'no error')
  } catch (error) {
    tell(name, failure(error))
  }
}
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function pg (url) {
  const { Client, Pool } = require('pg')
  const client = new Client({ connectionString: url })
  await client.connect()
  tell('literals', (await client.query('select * from ohlcv where ' + where() + ' order by ts')).rows)
  for (let i = 0; i < 2; i++) tell('arguments', (await client.query(TEXT, ['sim:BTCUSD', '1m', ...next()])).rows)
  for (let i = 0; i < 3; i++) tell('named', (await client.query({ name: 'bars', text: TEXT, values: ['sim:BTCUSD', '1m', ...next()] })).rows)
  tell('rows of arrays', (await client.query({ text: 'select ts, close from ohlcv where ' + where() + ' order by ts desc limit 3', rowMode: 'array' })).rows)
  tell('several statements', (await client.query('select 1; select count(*) from ohlcv where ' + where())).map((r) => r.rows))
  const queued = [where(), where(), where()].map((w) => client.query('select count(*), sum(close) from ohlcv where ' + w))
  tell('queued', (await Promise.all(queued)).map((r) => r.rows))
  await client.query('begin')
  tell('block', (await client.query('select count(*) from ohlcv where ' + where())).rows)
  await failing('syntax error', () => client.query('selec 1 from ohlcv'))
  await failing('failed block', () => client.query('select count(*) from ohlcv where ' + where()))
  await client.query('rollback')
  await failing('unknown column', () => client.query('select nothing from ohlcv where ts > $1 and ' + where(), [new Date(0)]))
  const heard = new Promise((resolve) => client.on('notification', (n) => resolve([n.channel, n.payload, n.processId === client.processID])))
  await client.query('listen word')
  await client.query("notify word, 'hello'")
  tell('notify', await heard)
  await client.end()
  const pool = new Pool({ connectionString: url, max: 2 })
  const days = [next(), next(), next(), next()]
  tell('pool', (await Promise.all(days.map((d) => pool.query(TEXT, ['sim:BTCUSD', '1m', ...d])))).map((r) => r.rows))
  await pool.end()
}

async function postgresjs (url) {
  const sql = require('postgres')(url, { max: 2, onnotice: () => {} })
  for (let i = 0; i < 3; i++) {
    const [a, b] = next()
    tell('arguments', await sql`select ts, close from ohlcv where symbol = ${'sim:BTCUSD'} and timeframe = '1m' and ts >= ${a} and ts < ${b} order by ts`)
  }
  const [a, b] = next()
  tell('in a list', await sql`select symbol, count(*) from ohlcv where symbol in ${sql(['sim:BTCUSD', 'sim:ETHUSD'])} and timeframe = '1m' and ts >= ${a} and ts < ${b} group by 1 order by 1`)
  tell('simple', await sql.unsafe('select count(*), sum(close) from ohlcv where ' + where()).simple())
  const seen = []
  await sql.unsafe('select ts, close from ohlcv where ' + where() + ' order by ts').cursor(40, (rows) => { seen.push(...rows) })
  tell('cursor', seen)
  tell('block', await sql.begin('isolation level read committed', async (tx) => [
    await tx.unsafe('select count(*) from ohlcv where ' + where()), await tx.unsafe('select count(*) from ohlcv where ' + where())]))
  await failing('syntax error', () => sql`selec 1 from ohlcv`)
  await failing('unknown column', () => sql`select nothing from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts > ${a} and ts < ${b}`)
  await sql.end()
}

async function ended (name, at, run) {
  let answer = 'no error'
  try {
    await run()
  } catch (error) {
    answer = failure(error)
  }
  tell(name, answer, performance.now() - at())
}

async function pgHold (url, statement) {
  const { Client } = require('pg')
  let client = new Client({ connectionString: url })
  await client.connect()
  for (const values of [undefined, []]) {
    for (let i = 0; i < ROUNDS; i++) {
      let at = 0
      const query = new (require('pg').Query)({ text: statement, values })
      const over = new Promise((resolve, reject) => { query.on('error', reject); query.on('end', resolve) })
      client.query(query)
      pause(BEFORE).then(() => {
        at = performance.now()
        new Client({ connectionString: url }).cancel(client, query)
      })
      await ended('cancel', () => at, () => over)
    }
  }
  await client.query('set statement_timeout = ' + TIMEOUT)
  for (let i = 0; i < ROUNDS; i++) {
    const at = performance.now() + TIMEOUT
    await ended('statement_timeout', () => at, () => client.query(statement))
  }
  tell('and on', (await client.query('select 1 as one')).rows)
  await client.end()
  client = new Client({ connectionString: url, statement_timeout: TIMEOUT })
  await client.connect()
  let at = performance.now() + TIMEOUT
  await ended('statement_timeout of the connection', () => at, () => client.query(statement))
  await client.end()
  client = new Client({ connectionString: url, query_timeout: TIMEOUT })
  client.on('error', () => {}) // of the connection that is given up
  await client.connect()
  at = performance.now() + TIMEOUT
  await ended('query_timeout', () => at, () => client.query(statement))
  client.connection.stream.destroy() // the driver does not
}

async function postgresjsHold (url, statement) {
  const sql = require('postgres')(url, { max: 1, onnotice: () => {} })
  for (let i = 0; i < ROUNDS; i++) {
    let at = 0
    const query = sql.unsafe(statement)
    pause(BEFORE).then(() => {
      at = performance.now()
      query.cancel()
    })
    await ended('cancel', () => at, () => query)
  }
  await sql.unsafe('set statement_timeout = ' + TIMEOUT)
  for (let i = 0; i < ROUNDS; i++) {
    const at = performance.now() + TIMEOUT
    await ended('statement_timeout', () => at, () => sql.unsafe(statement))
  }
  tell('and on', await sql`select 1 as one`)
  await sql.end()
}

// What is heard of a channel, and what comes after UNLISTEN.
const HEARD = 2
const QUIET = 1500

async function hear (listen) {
  let came = 0
  let over = false
  let after = 0
  await new Promise((resolve, reject) => {
    listen((name, payload) => {
      if (over) after++
      if (came >= HEARD) return
      tell('heard', [name, payload])
      if (++came === HEARD) resolve()
    }).catch(reject)
  })
  return async (unlisten) => {
    await unlisten()
    over = true
    await pause(QUIET)
    tell('after UNLISTEN', after)
  }
}

async function pgLive (url, channel) {
  const client = new (require('pg').Client)({ connectionString: url })
  await client.connect()
  const end = await hear(async (take) => {
    client.on('notification', (n) => take(n.channel, n.payload))
    await client.query('begin')
    await client.query('listen ' + client.escapeIdentifier(channel))
    await client.query('commit')
  })
  await end(() => client.query('unlisten *'))
  await client.end()
}

async function postgresjsLive (url, channel) {
  const sql = require('postgres')(url, { max: 1, onnotice: () => {} })
  let subscription
  const end = await hear(async (take) => { subscription = await sql.listen(channel, (payload) => take(channel, payload)) })
  await end(() => subscription.unlisten())
  await sql.end()
}

async function main ([driver, url, what, statement]) {
  if (what === 'live') return { pg: pgLive, postgresjs: postgresjsLive }[driver](url, statement)
  if (what === 'hold') return { pg: pgHold, postgresjs: postgresjsHold }[driver](url, statement)
  day = new Date(what + 'T00:00:00Z')
  return { pg, postgresjs }[driver](url)
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exit(1)
})
