-- The environment of scripts. This chunk is executed first in each Lua state.
-- The arguments are functions of Python. They take and return strings, numbers and booleans only, and raise nothing:
-- what allocates memory between Lua and Python may fail where Lua cannot raise an error.
-- A state is used for many runs. So scripts must not reach anything that lasts, but through proxies that are read-only.
local call, call_many, take, take_items, is_over_time, log, sha1hex, bits, library, memory_bytes, limit_bytes, large_kb, version,
  version_number = ...

local assert, error, getmetatable, ipairs, loadstring = assert, error, getmetatable, ipairs, loadstring
local next, pairs, raw_pcall, raw_xpcall, rawequal, rawget, rawset = next, pairs, pcall, xpcall, rawequal, rawget, rawset
local select, setfenv, setmetatable, tonumber, raw_tostring, type = select, setfenv, setmetatable, tonumber, tostring, type
local unpack, collect, newproxy = unpack, collectgarbage, newproxy
local create, resume, status, running, yield =
  coroutine.create, coroutine.resume, coroutine.status, coroutine.running, coroutine.yield
local byte, char, find, format, gsub, sub = string.byte, string.char, string.find, string.format, string.gsub, string.sub
local concat, floor, fmod, min = table.concat, math.floor, math.fmod, math.min
local getinfo, sethook, raw_metatable = debug.getinfo, debug.sethook, debug.getmetatable
debug = nil -- lupa would add a traceback to each error

collect("stop") -- and see `reset`
collect("setpause", 150) -- a collection begins early, and ends within a few allocations: they may be large
collect("setstepmul", 10000)
local base_kb -- in use when the run began
local empty_kb -- in use before the first run

-- Limits

local INSTRUCTIONS = 10 -- between two calls of the hook: one instruction may take long on a long string, up to 10 ms
local FEW_INSTRUCTIONS = 3 -- once there may be such strings
local CREDIT_KB = 400 -- after so much in use, summed over the calls of the hook, the time is looked at
local GARBAGE_CREDIT_KB = 50 -- the same at most while most of it may be garbage, and strings are short
local GARBAGE_KB = 100 -- after which it is collected, between runs
local NEEDED_BYTES = 64 * 1024 -- that must be free before Python is called
local MAX_TABLE = 100000 -- elements that one call moves
local MAX_CHUNK_BYTES = 8192 -- of code that a script compiles
local MAX_DEPTH = 100 -- of coroutines that resume each other, which takes C stack

local ended = false
local repeatable = true -- whether the run has the same effect at any node
local credit_kb = 0
local collect_kb = large_kb / 2 -- from which on a run collects garbage
local collecting = false
local floor_kb -- in use after the last collection
local ENDED = "the script was ended"

local function end_script()
  ended = true
  error(ENDED, 0)
end

local function look()
  credit_kb = 0
  if ended or is_over_time() then end_script() end
end

local on_count
function on_count()
  local kb = collect("count") - empty_kb
  credit_kb = credit_kb + (collecting and kb or min(kb, GARBAGE_CREDIT_KB))
  if kb > collect_kb and not collecting then
    collecting, repeatable = true, false
    collect("restart")
  end
  if kb > large_kb then sethook(on_count, "", FEW_INSTRUCTIONS) end
  if ended or credit_kb > CREDIT_KB then look() end
end

local function free_bytes()
  local free = limit_bytes - (collect("count") - base_kb) * 1024
  if free < limit_bytes / 4 then
    repeatable = false
    collect()
    free = limit_bytes - (collect("count") - base_kb) * 1024
  end
  if free < NEEDED_BYTES then end_script() end
  return free - NEEDED_BYTES
end

-- Errors. What ends the script cannot be caught. At which depth the stack overflows depends on when the hook runs.

local function note_failure(failure)
  if type(failure) == "string" and find(failure, "stack overflow", 1, true) then repeatable = false end
end

-- In an error, a place in the files here. `pcall` leaves it out, and `with_place` names that in the script instead.
local function without_own_place(failure, place)
  if type(failure) ~= "string" or not find(failure, "^%l+:%d+: ") or find(failure, "user_script", 1, true) == 1 then
    return failure
  end
  return (gsub(gsub(failure, "^sandbox:%d+: ", place, 1), "^cjson:%d+: ", place, 1))
end

local function caught(ok, ...)
  if ended then error(ENDED, 0) end
  if ok then return true, ... end
  local failure = without_own_place(..., "")
  if failure == "not enough memory" then end_script() end
  note_failure(failure)
  if type(failure) == "table" and type(rawget(failure, "err")) == "string" then return false, rawget(failure, "err") end
  return false, failure
end

local function pcall_(...)
  if select("#", ...) == 0 then error("bad argument #1 to 'pcall' (value expected)", 2) end
  return caught(raw_pcall(...))
end

local function handled(handler, ok, ...)
  if ended then error(ENDED, 0) end
  if ok then return true, ... end
  if (...) == "not enough memory" then end_script() end
  note_failure((...))
  return false, handler(...)
end

local function xpcall_(f, handler)
  -- Once the stack is unwound: an error in the hook would call the handler while hooks are off.
  return handled(handler, raw_pcall(f))
end

-- An error of a function of C gets its name, and the place of the caller: Lua would name a line of this file.
local function placed(name, ok, ...)
  if ok then return ... end
  if ended then error(ENDED, 0) end
  local failure = ...
  if type(failure) == "string" and (find(failure, "bad argument #", 1, true) == 1 or find(failure, "invalid", 1, true) == 1) then
    error(gsub(failure, "to '%?'", "to '" .. name .. "'", 1), 3)
  end
  error(failure, 0)
end

local function argument_error(n, name, text)
  error("bad argument #" .. n .. " to '" .. name .. "' (" .. text .. ")", 3)
end

local function got(value, given)
  return given and type(value) or "no value"
end

local function need_string(n, name, value, given)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" then return raw_tostring(value) end
  error("bad argument #" .. n .. " to '" .. name .. "' (string expected, got " .. got(value, given) .. ")", 3)
end

local function need_table(name, value, given)
  if type(value) ~= "table" then
    error("bad argument #1 to '" .. name .. "' (table expected, got " .. got(value, given) .. ")", 3)
  end
end

local function need_integer(n, name, value, given)
  local number = tonumber(value)
  if number == nil or (type(value) ~= "number" and type(value) ~= "string") then
    error("bad argument #" .. n .. " to '" .. name .. "' (number expected, got " .. got(value, given) .. ")", 3)
  end
  return number < 0 and -floor(-number) or floor(number)
end

-- Addresses differ between nodes, so that the names of tables and functions have numbers instead.

local NULL = newproxy()
local numbers, used = {}, 0

local function tostring_(...)
  if select("#", ...) == 0 then error("bad argument #1 to 'tostring' (value expected)", 2) end
  local value = ...
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" or kind == "nil" then return raw_tostring(value) end
  if rawequal(value, NULL) then return "userdata: (nil)" end
  local meta = raw_metatable(value) -- `__metatable` may hide it
  if type(meta) == "table" and rawget(meta, "__tostring") ~= nil then return raw_tostring(value) end
  local number = numbers[value]
  if not number then
    used = used + 1
    number = used
    numbers[value] = number
  end
  return format("%s: 0x%012x", kind, number * 32)
end

-- The order of a table depends on the addresses of its keys, if these are tables or functions. That of other keys is
-- determined by what was done to the table, as long as nothing is collected: a collection forgets keys that were removed.

local ORDERED = { string = true, number = true, boolean = true, ["nil"] = true }
local MAX_LOOKED_AT = 1000
local ordered -- the table that was looked at last

local function check_order(t, most)
  local n, ORDERED, type = 0, ORDERED, type
  sethook() -- which takes most of the time of such a loop
  for key in next, t do
    n = n + 1
    if not ORDERED[type(key)] or n > most then
      repeatable = false
      break
    end
  end
  ordered = t
  sethook(on_count, "", INSTRUCTIONS)
  credit_kb = credit_kb + 1 + n / 10 -- as the hook counts from the beginning again
  if credit_kb > CREDIT_KB then look() end
end

local function next_(...)
  local t, key = ...
  if type(t) ~= "table" then return placed("next", raw_pcall(next, ...)) end
  if not rawequal(t, ordered) or key == nil then check_order(t, MAX_LOOKED_AT) end
  local following, value = next(t, key)
  if not ORDERED[type(following)] then repeatable = false end
  return following, value
end

-- What `pairs` returns: as `next_` for a table that is looked at once, in its order.
local function iterator(t)
  local at -- the key that was returned last
  return function(of, key)
    if of ~= t or key ~= at then return next_(of, key) end
    if key == nil then check_order(t, MAX_TABLE) end
    local following, value = next(t, key)
    at = following
    return following, value
  end, t, nil
end

-- The last digits of these depend on the C library, and so do those of the operator ^, which `Script.is_exact` knows.
local inexact = {}
for name in ("acos asin atan atan2 cos cosh exp log log10 pow sin sinh tan tanh"):gmatch("%w+") do
  local of_library = math[name]
  inexact[name] = function(...)
    repeatable = false
    return placed(name, raw_pcall(of_library, ...))
  end
end

-- Coroutines: hooks are set for each.

local depth = 0

local function resumed(ok, ...)
  depth = depth - 1
  if ended then error(ENDED, 0) end
  if not ok and (...) == "not enough memory" then end_script() end
  if not ok then note_failure((...)) end
  return ok, ...
end

local function resume_(co, ...)
  if type(co) ~= "thread" then error("bad argument #1 to 'resume' (coroutine expected)", 2) end
  if depth == MAX_DEPTH then return false, "C stack overflow" end
  depth = depth + 1
  return resumed(resume(co, ...))
end

local function create_(f)
  if type(f) ~= "function" then error("bad argument #1 to 'create' (Lua function expected)", 2) end
  local co = create(function(...) return f(...) end)
  sethook(co, on_count, "", INSTRUCTIONS)
  return co
end

local function unwrapped(ok, ...)
  if ok then return ... end
  error((...), 3)
end

local function wrap_(f)
  if type(f) ~= "function" then error("bad argument #1 to 'wrap' (Lua function expected)", 2) end
  local co = create_(f)
  return function(...) return unwrapped(resume_(co, ...)) end
end

local environment = {} -- of scripts

-- Code: text only, as Lua does not verify binary chunks.

local function loadstring_(text, name)
  text = need_string(1, "loadstring", text, text ~= nil)
  if byte(text) == 27 then return nil, "binary chunks are not allowed" end
  if #text > MAX_CHUNK_BYTES then return nil, "the chunk is too large" end
  if find(text, "^", 1, true) then repeatable = false end
  local chunk, failure = loadstring(text, name == nil and text or need_string(2, "loadstring", name, true))
  if not chunk then return nil, failure end
  return setfenv(chunk, environment)
end

local function load_(f, name)
  if type(f) ~= "function" then error("bad argument #1 to 'load' (function expected, got " .. type(f) .. ")", 2) end
  local parts, size = {}, 0
  while size <= MAX_CHUNK_BYTES do
    local part = f()
    if part == nil or part == "" then break end
    if type(part) ~= "string" then return nil, "reader function must return a string" end
    parts[#parts + 1] = part
    size = size + #part
  end
  return loadstring_(concat(parts), name == nil and "=(load)" or name)
end

-- string and table: those functions of Lua whose time is not bounded, which no hook can end.

local function rep_(text, n, ...)
  local given = text ~= nil
  text = need_string(1, "rep", text, given)
  n = need_integer(2, "rep", n, n ~= nil)
  if n <= 0 or text == "" then return "" end
  if #text * n > memory_bytes then error("resulting string too large", 2) end
  local parts, size = {}, 0
  while true do
    if n % 2 == 1 then
      size = size + 1
      parts[size] = text
    end
    n = floor(n / 2)
    if n == 0 then return concat(parts) end
    text = text .. text
  end
end

local function load_library(name, ...)
  free_bytes()
  return loadstring(library(name))(...)
end

local PATTERN_ERRORS = {
  "bad argument #", "invalid capture index", "invalid pattern capture", "invalid replacement value", "malformed pattern",
  "missing '['", "too many captures", "unbalanced pattern", "unfinished capture",
}

-- An error of a pattern gets the place of the caller, as if a function of C had raised it.
local function positioned(ok, ...)
  if ok then return ... end
  if ended then error(ENDED, 0) end
  local failure = ...
  if type(failure) ~= "string" then error(failure, 0) end
  failure = gsub(failure, "^patterns:%d+: ", "", 1)
  for i = 1, #PATTERN_ERRORS do
    if find(failure, PATTERN_ERRORS[i], 1, true) == 1 then error(failure, 3) end
  end
  error(failure, 0)
end

local patterns
local function pattern_function(name)
  return function(...)
    patterns = patterns or load_library("patterns", look, got, positioned)
    return positioned(raw_pcall(patterns[name], ...))
  end
end

local function length_of(name, t)
  local n = #t
  if n > MAX_TABLE then error("the table is too large for '" .. name .. "'", 3) end
  if n > 1000 then look() end
  return n
end

local CONCAT_ELEMENTS = 5000 -- at once

local function concat_(...)
  local t, separator, first, last = ...
  if last == nil and type(t) == "table" and #t <= CONCAT_ELEMENTS then return placed("concat", raw_pcall(concat, ...)) end
  local from, to = tonumber(first) or 1, tonumber(last) or (type(t) == "table" and #t or 0)
  if type(t) ~= "table" or not (to - from > CONCAT_ELEMENTS) then return placed("concat", raw_pcall(concat, ...)) end
  local parts, n = {}, 0
  for i = from, to, CONCAT_ELEMENTS do
    look()
    n = n + 1
    parts[n] = placed("concat", raw_pcall(concat, t, separator, i, min(i + CONCAT_ELEMENTS - 1, to)))
  end
  return concat(parts, separator)
end

local function need_function(name, f, given)
  if type(f) ~= "function" then
    error("bad argument #2 to '" .. name .. "' (function expected, got " .. got(f, given) .. ")", 3)
  end
end

local function foreach_(...)
  local t, f = ...
  local given = select("#", ...)
  need_table("foreach", t, given > 0)
  need_function("foreach", f, given > 1)
  check_order(t, MAX_TABLE)
  for key, value in next, t do
    local result = f(key, value)
    if result ~= nil then return result end
  end
end

local function foreachi_(...)
  local t, f = ...
  local given = select("#", ...)
  need_table("foreachi", t, given > 0)
  need_function("foreachi", f, given > 1)
  for i = 1, #t do
    local result = f(i, rawget(t, i))
    if result ~= nil then return result end
  end
end

local function maxn_(...)
  local t = ...
  need_table("maxn", t, select("#", ...) > 0)
  local most = 0
  for key in next, t do
    if type(key) == "number" and key > most then most = key end
  end
  return most
end

local function insert_(...)
  local t, at, value = ...
  local given = select("#", ...)
  need_table("insert", t, given > 0)
  if given == 2 then
    t[#t + 1] = at
  elseif given == 3 then
    local n = length_of("insert", t)
    at = need_integer(2, "insert", at, true)
    if at < 1 and n - at > MAX_TABLE then error("the position is too far away", 2) end
    for i = n, at, -1 do t[i + 1] = t[i] end
    t[at] = value
  else
    error("wrong number of arguments to 'insert'", 2)
  end
end

local function remove_(...)
  local t, at = ...
  need_table("remove", t, select("#", ...) > 0)
  if at == nil then
    local n = #t
    if n == 0 then return nil end
    local value = t[n]
    t[n] = nil
    return value
  end
  local n = length_of("remove", t)
  at = need_integer(2, "remove", at, true)
  if at < 1 or at > n then return end
  local value = t[at]
  for i = at, n - 1 do t[i] = t[i + 1] end
  t[n] = nil
  return value
end

-- The algorithm of Lua 5.1, so that elements which are equal end in the same order.
local function sort_part(t, low, up, less)
  while low < up do
    if less(t[up], t[low]) then t[low], t[up] = t[up], t[low] end
    if up - low == 1 then break end
    local i = floor((low + up) / 2)
    if less(t[i], t[low]) then
      t[i], t[low] = t[low], t[i]
    elseif less(t[up], t[i]) then
      t[i], t[up] = t[up], t[i]
    end
    if up - low == 2 then break end
    local pivot = t[i]
    t[i], t[up - 1] = t[up - 1], pivot
    i = low
    local j = up - 1
    while true do
      i = i + 1
      while less(t[i], pivot) do
        if i > up then error("invalid order function for sorting", 0) end
        i = i + 1
      end
      j = j - 1
      while less(pivot, t[j]) do
        if j < low then error("invalid order function for sorting", 0) end
        j = j - 1
      end
      if j < i then break end
      t[i], t[j] = t[j], t[i]
    end
    t[up - 1], t[i] = t[i], t[up - 1]
    if i - low < up - i then
      sort_part(t, low, i - 1, less)
      low = i + 1
    else
      sort_part(t, i + 1, up, less)
      up = i - 1
    end
  end
end

local function less_than(a, b) return a < b end

local function sort_(...)
  local t, less = ...
  need_table("sort", t, select("#", ...) > 0)
  if less ~= nil and type(less) ~= "function" then
    error("bad argument #2 to 'sort' (function expected, got " .. type(less) .. ")", 2)
  end
  local n = length_of("sort", t)
  if less then return sort_part(t, 1, n, less) end
  local ok, failure = caught(raw_pcall(sort_part, t, 1, n, less_than))
  if not ok then error((gsub(failure, "^sandbox:%d+: ", "", 1)), 0) end
end

-- math: the generator of Redis, which is that of drand48, from the same seed in each run.

local high, low = 0, 0x330e -- of 48 bits: the upper 32 and the lower 16

local function randomseed_(seed)
  high, low = need_integer(1, "randomseed", seed, seed ~= nil) % 4294967296, 0x330e
end

local function random_(...)
  -- Times 0x5deece66d, plus 0xb; every product is below 2^53.
  local first = 0xe66d * low + 0xb
  local middle = high % 65536
  local second = 0xe66d * middle + 0xdeec * low + floor(first / 65536)
  local third = 0xe66d * floor(high / 65536) + 0xdeec * middle + 5 * low + floor(second / 65536)
  low, high = first % 65536, third % 65536 * 65536 + second % 65536
  local r = floor(high / 2) % 2147483647 / 2147483647
  local given = select("#", ...)
  if given == 0 then return r end
  local from, to = ...
  from = need_integer(1, "random", from, from ~= nil)
  if given == 1 then
    if from < 1 then argument_error(1, "random", "interval is empty") end
    return floor(r * from) + 1
  end
  if given > 2 then error("wrong number of arguments", 2) end
  to = need_integer(2, "random", to, to ~= nil)
  if from > to then argument_error(2, "random", "interval is empty") end
  return floor(r * (to - from + 1)) + from
end

-- Replies: from Redis to Lua

local encoded, at -- a reply in RESP2, and where its next part begins

local function line()
  local stop = find(encoded, "\r\n", at, true)
  local text = sub(encoded, at + 1, stop - 1)
  at = stop + 2
  return text
end

local function reply_part()
  local kind = byte(encoded, at)
  local head = line()
  if kind == 36 then -- $
    local size = tonumber(head)
    if size < 0 then return false end
    local text = sub(encoded, at, at + size - 1)
    at = at + size + 2
    return text
  elseif kind == 58 then -- :
    return tonumber(head)
  elseif kind == 43 then -- +
    return { ok = head }
  elseif kind == 45 then -- -
    return { err = head }
  end
  local size = tonumber(head) -- *
  if size < 0 then return false end
  local items = {}
  for i = 1, size do items[i] = reply_part() end
  return items
end

-- An array of texts and numbers, in parts: so many values can be returned without more stack, for which lupa might need
-- memory that there is not.
local function taken_array(size)
  local items = {}
  for n = 0, size - 1, 8 do
    items[n + 1], items[n + 2], items[n + 3], items[n + 4], items[n + 5], items[n + 6], items[n + 7], items[n + 8] =
      take_items(n)
  end
  return items
end

local function taken()
  local head = take()
  if head == "+OK\r\n" then return { ok = "OK" } end
  if type(head) == "number" then return taken_array(head) end
  encoded, at = head, 1
  local reply = reply_part()
  encoded = nil
  return reply
end

local MANY = 50 -- words

local function to_words(...)
  local n = select("#", ...)
  if n == 0 then return nil, "ERR Please specify at least one argument for this redis lib call" end
  local words = { ... }
  for i = 1, n do
    local kind = type(words[i])
    if kind == "number" then
      words[i] = format("%.17g", words[i])
    elseif kind ~= "string" then
      return nil, "ERR Lua redis lib command arguments must be strings or integers"
    end
  end
  return words, n
end

local function execute(...)
  local words, n = to_words(...)
  if not words then return { err = n } end
  local reply
  if n <= MANY then
    reply = call(free_bytes(), unpack(words, 1, n))
  else
    local sizes = {}
    for i = 1, n do sizes[i] = #words[i] end
    sizes, words = concat(sizes, ","), concat(words, "", 1, n)
    reply = call_many(free_bytes(), sizes, words)
  end
  if reply == true then
    reply = taken()
  elseif reply == nil then
    end_script()
  end
  return reply
end

local function redis_call(...)
  local reply = execute(...)
  if type(reply) == "table" and reply.err then error(reply, 0) end
  return reply
end

local function one_text(field, ...)
  local text = ...
  if select("#", ...) ~= 1 or type(text) ~= "string" then return { err = "ERR wrong number or type of arguments" } end
  return { [field] = text }
end

local function error_reply(...)
  local reply = one_text("err", ...)
  local text = reply.err
  if byte(text) == 45 then text = sub(text, 2) end
  if not find(text, " ", 1, true) then text = "ERR " .. text end
  return { err = text }
end

local function status_reply(...) return one_text("ok", ...) end

local function fail(text) error({ err = text }, 0) end

local function sha1hex_(...)
  local text = ...
  if select("#", ...) ~= 1 then fail("ERR wrong number of arguments") end
  free_bytes()
  return sha1hex(type(text) == "number" and raw_tostring(text) or type(text) == "string" and text or "")
end

local function log_(...)
  local level = ...
  if select("#", ...) < 2 then fail("ERR redis.log() requires two arguments or more.") end
  if type(level) ~= "number" then fail("ERR First argument must be a number (log level).") end
  if level < 0 or level > 3 then fail("ERR Invalid debug level.") end
  local words = {}
  for i = 2, select("#", ...) do
    local word = select(i, ...)
    if type(word) == "string" or type(word) == "number" then words[#words + 1] = word end
  end
  log(concat(words, " "))
end

local function setresp_(...)
  if select("#", ...) ~= 1 then fail("ERR redis.setresp() requires one argument.") end
  if (...) ~= 2 and (...) ~= 3 then fail("ERR RESP version must be 2 or 3.") end
  if (...) == 3 then fail("ERR scripts cannot use RESP version 3 here.") end
end

-- Replies: from Lua to Redis, in RESP3

local MAX_NESTING = 100 -- of arrays; the server and clients decode them recursively
local encode_reply

local function one_line(text) return (gsub(text, "[\r\n]", " ")) end

local function encode_table(t, nesting)
  if nesting == MAX_NESTING then return "-ERR reached lua stack limit\r\n" end
  local err, ok, double, map = rawget(t, "err"), rawget(t, "ok"), rawget(t, "double"), rawget(t, "map")
  local set, big_number, verbatim = rawget(t, "set"), rawget(t, "big_number"), rawget(t, "verbatim_string")
  if type(err) == "string" then return "-" .. one_line(err) .. "\r\n" end
  if type(ok) == "string" then return "+" .. one_line(ok) .. "\r\n" end
  if type(double) == "number" then return encode_reply(format("%.17g", double), nesting) end
  local parts, n = { "" }, 0
  if type(map) == "table" then
    check_order(map, MAX_TABLE)
    for name, value in next, map do
      n = n + 1
      parts[2 * n] = encode_reply(type(name) ~= "table" and name or nil, nesting + 1)
      parts[2 * n + 1] = encode_reply(value, nesting + 1)
    end
    parts[1] = "%" .. n .. "\r\n"
    return concat(parts)
  end
  if type(set) == "table" then
    check_order(set, MAX_TABLE)
    for value in next, set do
      n = n + 1
      parts[n + 1] = encode_reply(value, nesting + 1)
    end
    parts[1] = "*" .. n .. "\r\n"
    return concat(parts)
  end
  if type(big_number) == "string" then return encode_reply(one_line(big_number), nesting) end
  if type(verbatim) == "table" and type(rawget(verbatim, "format")) == "string" then
    local text = rawget(verbatim, "string")
    if type(text) == "string" then return encode_reply(text, nesting) end
  end
  while true do
    local value = rawget(t, n + 1)
    if value == nil then break end
    n = n + 1
    parts[n + 1] = encode_reply(value, nesting + 1)
  end
  parts[1] = "*" .. n .. "\r\n"
  return concat(parts)
end

function encode_reply(value, nesting)
  local kind = type(value)
  if kind == "string" then return "$" .. #value .. "\r\n" .. value .. "\r\n" end
  if kind == "number" then
    if value ~= value or value >= 2 ^ 63 or value < -2 ^ 63 then return ":-9223372036854775808\r\n" end
    return format(":%.0f\r\n", value < 0 and -floor(-value) or floor(value))
  end
  if kind == "boolean" then return value and ":1\r\n" or "_\r\n" end
  if kind == "table" then return encode_table(value, nesting) end
  return "_\r\n"
end

-- The globals

local function copy(from, changed)
  local to = {}
  for name, value in next, from do to[name] = value end
  for name, value in next, changed do to[name] = value end
  return to
end

local shared = {} -- the table behind each proxy

local function read_only() error("Attempt to modify a readonly table", 2) end

local function protect(t)
  local proxy = setmetatable({}, { __index = t, __newindex = read_only, __metatable = "readonly" })
  shared[proxy] = t
  return proxy
end

local function pairs_(...)
  local t = ...
  need_table("pairs", t, select("#", ...) > 0)
  return iterator(shared[t] and copy(shared[t], {}) or t)
end

local function rawset_(t, name, value)
  if shared[t] or rawequal(t, environment) then error("Attempt to modify a readonly table", 0) end
  return rawset(t, name, value)
end

local string_ = copy(string, {
  rep = rep_,
  find = pattern_function("find"),
  match = pattern_function("match"),
  gmatch = pattern_function("gmatch"),
  gfind = pattern_function("gmatch"),
  gsub = pattern_function("gsub"),
})
string_.dump = nil
local string_proxy = protect(string_)
getmetatable("").__index = string_
getmetatable("").__metatable = protect({ __index = string_proxy })

local globals = {
  assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, load = load_, loadstring = loadstring_,
  next = next_, pairs = pairs_, pcall = pcall_, xpcall = xpcall_, rawequal = rawequal, rawget = rawget, rawset = rawset_,
  select = select, setmetatable = setmetatable, tonumber = tonumber, tostring = tostring_, type = type, unpack = unpack,
  _VERSION = _VERSION,
  collectgarbage = function() return 0 end,
  gcinfo = function() return 0 end,
  string = string_proxy,
  table = protect(copy(table, { insert = insert_, remove = remove_, sort = sort_, foreach = foreach_,
    foreachi = foreachi_, maxn = maxn_, concat = concat_ })),
  math = protect(copy(copy(math, inexact), { random = random_, randomseed = randomseed_ })),
  coroutine = protect({
    create = create_, resume = resume_, wrap = wrap_, status = status, running = running, yield = yield,
  }),
  redis = protect({
    call = redis_call, pcall = execute, error_reply = error_reply, status_reply = status_reply, sha1hex = sha1hex_,
    log = log_, LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
    setresp = setresp_, replicate_commands = function() return true end, set_repl = function() end,
    REPL_NONE = 0, REPL_SLAVE = 1, REPL_REPLICA = 1, REPL_AOF = 2, REPL_ALL = 3,
    breakpoint = function() return false end, debug = function() end, acl_check_cmd = function() return true end,
    REDIS_VERSION = version, REDIS_VERSION_NUM = version_number,
  }),
  _G = environment,
}

local LIBRARIES = { cjson = true, bit = true }
local resets = {} -- of the libraries that were loaded

setmetatable(globals, {
  __index = function(t, name)
    if LIBRARIES[name] then
      local loaded, reset = load_library(name, NULL, bits, function(t) check_order(t, MAX_TABLE) end)
      resets[#resets + 1] = reset
      rawset(t, name, protect(loaded))
      return rawget(t, name)
    end
    error("Script attempted to access nonexistent global variable '" .. tostring_(name) .. "'", 2)
  end,
})
setmetatable(environment, { __index = globals, __newindex = read_only, __metatable = "readonly" })

-- Runs

local values = {} -- the keys, and then the other arguments

local function push(...)
  local n, more = #values, { ... }
  for i = 1, #more do values[n + i] = more[i] end
end

local NOT_OF_SCRIPTS = { ["=[C]"] = true, ["=sandbox"] = true, ["=patterns"] = true, ["=cjson"] = true, ["=bit"] = true }

local function with_place(failure)
  local level = 2
  local info = getinfo(level, "S")
  while info and NOT_OF_SCRIPTS[info.source] do
    level = level + 1
    info = getinfo(level, "S")
  end
  note_failure(failure)
  local place = info and " script: %s, on " .. info.source .. ":" .. getinfo(level, "l").currentline .. "." or ""
  if type(failure) == "table" then
    local err = rawget(failure, "err")
    return { type(err) == "string" and err or "ERR unknown error", place }
  end
  if failure == ENDED or failure == "not enough memory" then return failure end
  if info and type(failure) == "string" then -- the hook may need the stack that overflows
    local where = sub(info.source, 2) .. ":" .. getinfo(level, "l").currentline
    failure = without_own_place(failure, where .. ": ")
  end
  return { "ERR " .. tostring_(failure), place }
end

local scripts = {} -- by their digests

local function define(name, code) scripts[name] = setfenv(loadstring(code, "@user_script"), environment) end

local function reset()
  collect("stop")
  repeatable, collecting, ordered = true, false, nil
  base_kb, credit_kb, depth, ended = collect("count"), 0, 0, false
  numbers, used = {}, 0
  high, low = 0, 0x330e
  if patterns then patterns.reset() end
  for i = 1, #resets do resets[i]() end
end

-- Between runs, garbage is collected once there is some of it: it must not be during a run whose effect is to be the same
-- elsewhere, as other runs came before it there.
local function collect_garbage()
  if collect("count") - floor_kb < GARBAGE_KB then return end
  collect()
  collect("stop")
  floor_kb = collect("count")
end

-- Returns the encoded reply, and whether the run is repeatable; or 0 if the script was ended.
local function run(name, key_count, ...)
  reset()
  push(...)
  local keys, argv = {}, {}
  for i = 1, #values do
    if i <= key_count then keys[i] = values[i] else argv[i - key_count] = values[i] end
  end
  values = {}
  globals.KEYS, globals.ARGV = keys, argv
  sethook(on_count, "", collect("count") - empty_kb > large_kb and FEW_INSTRUCTIONS or INSTRUCTIONS)
  local ok, reply = raw_xpcall(scripts[name], with_place)
  if ok then ok, reply = raw_pcall(encode_reply, reply, 0) end
  sethook()
  globals.KEYS, globals.ARGV = nil, nil
  if ended or reply == "not enough memory" then return 0, false end
  collect_garbage()
  if ok then return reply, repeatable end
  if type(reply) == "table" then
    local place = gsub(reply[2], "%%s", name, 1)
    return encode_reply({ err = reply[1] .. place }, 0), repeatable
  end
  return encode_reply({ err = "ERR " .. reply }, 0), repeatable
end

collect()
empty_kb = collect("count") - 8 -- the time is looked at now and then in any case
floor_kb = empty_kb
return define, push, run
