// Sessions of node-postgres or postgres.js that do what `make soak` orders, as pysoak.py has it: soak.js pg|postgresjs
'use strict'

// postgres.js leaves promises of its own without anyone who waits for them, that of a cancel request for one.
process.on('unhandledRejection', () => {})

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const ignore = () => {}

class Pg {
  async connect (host, port, user, database, name) {
    const { Client } = require('pg')
    this.where = { host, port: Number(port), user, database, application_name: name, ssl: false }
    this.client = new Client(this.where)
    this.client.on('error', ignore) // the statement's own is answered
    await this.client.connect()
    return []
  }

  async ask (after, text, ...values) {
    const { Client, Query } = require('pg')
    const named = values.length && this.odd ? { name: 'bars' } : {}
    const query = new Query({ text, values: values.length ? values : undefined, rowMode: 'array', ...named })
    const rows = []
    const over = new Promise((resolve, reject) => {
      query.on('row', (row) => rows.push(row))
      query.on('error', reject)
      query.on('end', resolve)
    })
    this.client.query(query)
    const timer = Number(after) && setTimeout(() => {
      if (this.client._activeQuery !== query) return // one that waits would be forgotten
      const other = new Client(this.where)
      other.connection.on('error', ignore)
      other.cancel(this.client, query)
    }, Number(after))
    try {
      await over
    } finally {
      clearTimeout(timer)
    }
    return rows
  }

  async close () {
    if (!this.client) return []
    await Promise.race([this.client.end().catch(ignore), pause(2000)])
    this.client.connection.stream.destroy()
    return []
  }

  code (error) { return error.severity ? error.code : '' }
}

class PostgresJs {
  async connect (host, port, user, database, name) {
    this.sql = require('postgres')({ host, port: Number(port), user, database, max: 1, ssl: false, onnotice: ignore, fetch_types: false, connect_timeout: 100, connection: { application_name: name } })
    await this.sql.unsafe('select 1')
    return []
  }

  async ask (after, text, ...values) {
    const query = values.length ? this.sql.unsafe(text, values, { prepare: this.odd }) : this.sql.unsafe(text)
    const timer = Number(after) && setTimeout(() => query.active && query.cancel(), Number(after))
    try {
      return [...await query.values()]
    } finally {
      clearTimeout(timer)
    }
  }

  async close () {
    if (this.sql) await this.sql.end({ timeout: 1 }).catch(ignore)
    return []
  }

  code (error) { return error.name === 'PostgresError' ? error.code : '' }
}

const Driver = { pg: Pg, postgresjs: PostgresJs }[process.argv[2]]
const sessions = new Map()

async function obey (session, number, what, fields) {
  try {
    const rows = await session[what](...fields)
    return { session: number, rows: rows.map((row) => row.map((value, at) => at === 1 ? Number(value) : value)) } // a bigint is a string there
  } catch (error) {
    return { session: number, code: session.code(error) || '', message: String(error.message || error.code || error) }
  }
}

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const [number, what, ...fields] = line.split('\t')
  if (!sessions.has(number)) {
    const session = new Driver()
    session.odd = Math.floor(Number(number) / 10) % 2 === 1
    sessions.set(number, { session, last: Promise.resolve() })
  }
  const each = sessions.get(number)
  each.last = each.last.then(() => obey(each.session, Number(number), what, fields)).then((answer) => console.log(JSON.stringify(answer)))
}).on('close', () => process.exit(0))
