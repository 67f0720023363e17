"""Scripts that run on a real Redis and on our server with the same result, one a line. Each is sent without keys."""

SCRIPTS = r"""
math.sin('x')
next(1)
pairs(nil)
for k in pairs() do end
table.foreach(1)
table.foreachi({})
table.foreachi({1, 2}, function(i, v) if i == 2 then error(v) end end)
return {table.foreach({a = 7}, function(k, v) return k .. v end), table.foreachi({5, 6}, math.max)}
return {table.maxn({1, 2, nil, 4, [9.5] = 1, [-1] = 1}) * 2, table.maxn({})}
table.maxn()
table.concat()
table.concat({1,{},3})
table.concat({}, {})
table.concat({}, 'x', 1, 1e9)
local t = {} for i = 1, 20000 do t[i] = i end return redis.sha1hex(table.concat(t, ','))
local t = {} for i = 1, 20000 do t[i] = i end return #table.concat(t, '', 3, 19000)
local t = {} for i = 1, 20000 do t[i] = i end t[12345] = {} return table.concat(t)
return {(('a'):rep(200)):gsub('.', string.upper)}
return {(('ab'):rep(200)):gsub('.', setmetatable({a = 'x'}, {__index = function(t, k) return k:upper() end}))}
(('a'):rep(200)):gsub('.', function() error('x') end)
(('a'):rep(200)):gsub('.', function() error('x', 2) end)
return pcall(math.sin)
error('hällo')
return redis.error_reply('hällo')
return tostring(setmetatable({}, {__metatable = false, __tostring = function() return 'mine' end}))
local n, t, k = pairs({a = 1}) return {type(n), type(t), k, n(t, k)}
local s = 0 for k, v in pairs({1, 2, a = 3}) do for l, w in pairs({4, 5}) do s = s + v * w end end return s
return cjson.encode(function() end)
return {set = {a = true}}
return {big_number = '12'}
return {verbatim_string = {string = 'x', format = 'txt'}}
error()
return {err='x y'}
return {err='MYERR y'}
return redis.error_reply('foo bar')
return redis.error_reply('-FOO bar')
return redis.error_reply('single')
return {redis.error_reply('single')}
return redis.status_reply('hi')
return {ok='a'}
return 3.99
return -3.99
return {1,2,nil,4}
return {1,{2,'x',{ok='q'}},false,true,3.5}
return 1e20
return 0/0
return
return true
return false
foo(
return redis.sha1hex('a')
return redis.sha1hex()
return redis.call('set','s','abc')
return redis.call('incr','s')
return redis.pcall('incr','s')
redis.call('set','n',0.1) return redis.call('get','n')
redis.call('set','n',12345678901234567) return redis.call('get','n')
redis.call('set','n',1e300) return redis.call('get','n')
return tostring(redis.call('get','none'))
return {1,redis.pcall('incr','s')}
local a,b=pcall(redis.call,'incr','s') return {type(b), b.err, b.source or 'nosrc', tostring(b.line)}
local a,b=pcall(error,'x') return b
return redis.setresp(4)
math.randomseed(7) return math.random()..' '..math.random(5,9)..' '..math.random()
return redis.log(redis.LOG_DEBUG,'x')
return redis.log('x')
return redis.log(9,'x')
return string.rep()
local t={} t[1][2]=3
return {double=3.5}
return function() end
return redis.call('ping')
return redis.call('echo','a')
return redis.call('hello')
return redis.call('watch','a')
return redis.call('config','get','a')
return cjson.encode({1,2,3,a=1})
return cjson.encode({b={1,2.5,'x/y"\n\127\255'}})
return cjson.encode({c={}})
return cjson.encode({[1]=1,[100]=2})
return cjson.encode({[1]=1,[5]=2})
return cjson.encode({[1.5]=1})
return cjson.encode({[true]=1})
return cjson.encode(0.1)..cjson.encode(cjson.null)..cjson.encode(true)..cjson.encode(nil)
return cjson.decode('{"a":[1,2,null]}').a[2]
return cjson.decode('[1')
return cjson.decode('nope')
return cjson.decode('{"a" 1}')
return cjson.decode('[0x1F, 1e2, "\\u00e9\\ud83d\\ude00"]')
return cjson.encode(1/0)
return cjson.encode(function() end)
local t={} t.t=t return cjson.encode(t)
return cjson.decode(string.rep('[',2000))
return cjson.decode('"a')
return cjson.decode('[1,]')
return cjson.decode('{"a":1,}')
return cjson.decode('{1:2}')
return cjson.decode('')
return cjson.decode('[1]x')
return cjson.decode()
return cjson.encode()
return cjson.decode('"\\ud800"')
return cjson.decode('"\\x"')
return cjson.decode('tru')
return cjson.decode('[1 2]')
return cjson.decode('-')
return cjson.decode('01')
return cjson.decode('1.')
return cjson.decode('nan')
return cjson.decode('inf')
return cjson.decode('+1')
return cjson.decode(5)
return cjson.encode(12345678901234)..' '..cjson.encode(1e15)..' '..cjson.encode(2^53)..cjson.encode(-0.5e-7)
return {map={a=1}}
return print
_G.foo=2
return rawset(_G,'foo',2)
return {err=5}
return {ok=5}
return coroutine.wrap(function() return redis.call('get','x') end)()
local function f() return f() + 1 end return f()
return redis.call('script','load','return 1')
return string.find('abc','%')
return string.find('abc','[a')
return string.gsub('abc','(','x')
return string.gsub('abc','b','%2')
return string.match('abc','%1')
return string.match('abc')
return string.gsub('abc','b')
return string.find({},'b')
return 'abc'+1
return {} < {}
return ('x'):bad()
return nosuch
return tostring({}):sub(1,6)
return table.concat({1,{},3})
table.insert({},1,2,3)
table.insert({})
table.sort({3,'a'})
return unpack({1,2,3},1,1e8)
return setmetatable({}, {__index=function() return 1 end})
return {1,setmetatable({}, {__index=function() return 1 end})}
local x = nil; x.y = 1
return coroutine.yield(1)
return loadstring('return 1+')
return loadstring('return 7')()
return load(function() return nil end)
return redis.replicate_commands()
return redis.set_repl(redis.REPL_ALL)
return redis.acl_check_cmd('set','a','b')
return redis.breakpoint()
return redis.debug('x')
return redis.call('select','0')
return redis.call('hgetall','none')
return redis.call('get','a','b')
return redis.call('SET','s')
return bit.band(7,3)
return tostring(cjson.null)
return string.format('%5d|%s|%q', 3.7, 'x', 'a"b')
return string.format('%99999d', 1)
return string.format('%s', {})
return string.format('%d', 'x')
return string.rep('x', 3, 'y')
return string.rep('x', -1)
return #ARGV + #KEYS
return select('#', KEYS[1])
error('boom', 0)
error('boom', 2)
error({err='boom'})
error({err='ERR boom', extra=1})
return {err='ERR already'}
return {err=''}
return {ok='a\r\nb'}
return {err='a\r\nb'}
return redis.error_reply()
return redis.error_reply(5)
return redis.status_reply(5)
return redis.error_reply('')
return redis.error_reply('-')
return xpcall(function() error('a') end, function(e) return e..'!' end)
local a, b = xpcall(function() error('a') end, function(e) return e..'!' end) return b
local f = loadstring('error("x")') f()
return tostring(1e15)..' '..tostring(1e100)..' '..tostring(0.1)
return {{}, {{}}}
return {[2]=1}
return {1, [3]=3}
return type(redis)
return next({})
redis.call('set','k',1) error('after')
return redis.call('get','k')
return redis.call('set', 'k', true)
return redis.call('set', 'k', nil)
return redis.call('set', 'k', 10)
return redis.pcall()
return redis.pcall('nosuch').err
return redis.pcall('set', {}).err
return pcall(redis.call)
local ok, e = pcall(redis.call) return {tostring(ok), e.err}
return tostring(math.huge) .. tostring(-math.huge)
return math.huge
return -math.huge
return 2^31
return 2^63
return -(2^63)
return 2^53+0.5
return _VERSION
return redis.setresp(2)
return getmetatable('').__index == string
getmetatable('').__index = nil
return #string.format('%099d', 7)
return string.format('%-5s|%05.1f|%x|%c|%%|%i|%u|%e|%g', 'ab', 3.14159, 255, 65, 3, 4, 1.5, 1e20)
goto x
local x = 1; ; return x
return 1 // 2
return "\x41"
return "\65"
return redis.call('hgetall', 'h')
return redis.call('hmget', 'h', 'f', 'none', 'g')
return redis.call('mget', 's', 'none', 'n')
return #redis.call('keys', '*')
redis.call('hset', 'h', 'x', 1, 'y', 2) return redis.call('hlen', 'h')
return {redis.call('exists', 's'), redis.call('ttl', 's'), redis.call('ttl', 'none')}
return redis.call('incr', 's')
return redis.call('hget', 's', 'f')
return redis.pcall('hget', 's', 'f')
local ok, e = pcall(redis.call, 'hget', 's', 'f') return {tostring(ok), e}
local r = redis.pcall('hget', 's', 'f') return {type(r), r.err}
return type(redis.call('get', 'none'))
if redis.call('get', 'none') then return 'set' else return 'unset' end
return redis.call('set', 's', 'x', 'nx')
return redis.call('set', 's', 'x', 'px', '100000', 'get')
return redis.call('set', 's', 'abc', 'ex', 'x')
redis.call('incrbyfloat', 'f', '1.5') return redis.call('get', 'f')
return redis.call('incrby', 'n', 2.0)
return redis.call('incrby', 'n', 2.5)
redis.call('mset', 'a', 1, 'b', 2) redis.call('del', 'a') return redis.call('exists', 'a', 'b')
return string.format('%s', nil)
return ('%d items'):format(3)
return ('a,b,,c'):gsub(',', ';')
local t = {} for w in ('a b c'):gmatch('%a') do t[#t + 1] = w end return t
local a, b = ('key=value'):match('(%w+)=(%w+)') return {a, b}
return {('hello'):find('l+')}
return {('hello'):find('(l)(l)')}
return {('a.b'):find('.', 1, true)}
return {('abc'):find('b', -1)}
return (('abc'):gsub('%w', '%0%0'))
return (('abc'):gsub('%w', {a = '1', b = true}))
return (('abc'):gsub('', '-'))
return (('$name'):gsub('%$(%w+)', function(n) return n:upper() end))
return (('abc'):gsub('a', '%'))
return ('abc'):rep(3)
return ('x'):rep(0)
return table.concat({1, 2, 3}, ', ')
local t = {5, 2, 8, 1} table.sort(t) return t
local t = {5, 2, 8, 1} table.sort(t, function(a, b) return a > b end) return t
local t = {'b', 'a', 'c'} table.sort(t) return t
local t = {} for i = 1, 200 do t[i] = (i * 7919) % 211 end table.sort(t) return t
local t = {1, 2, 3} table.insert(t, 2, 'x') table.remove(t, 1) return t
local t = {1, 2} table.insert(t, 5, 'x') return #t
return table.remove({})
return table.remove({1, 2}, 7)
local t = {} t.x = 1 return t.x
local t = {n = 0} for k in pairs({a = 1, b = 2}) do t.n = t.n + 1 end return t.n
local r = {} for i, v in ipairs({1, 2, nil, 4}) do r[i] = v end return r
return {tonumber('0x10'), tonumber('z', 36), tonumber('1e2'), tostring(tonumber('x'))}
return {math.floor(1.7), math.ceil(1.2), math.max(1, 5, 3), math.abs(-4), 7 % 3, -7 % 3, 2 ^ 10}
return tostring(7 / 2)
return 7 / 2
return {1.9, -1.9, '1.9'}
return {select('#'), select(2, 'a', 'b', 'c')}
return {unpack({1, 2, 3})}
return {unpack({1, 2, 3}, 2)}
local co = coroutine.wrap(function() error('inside') end) co()
local co = coroutine.create(function() error('inside') end) local ok, e = coroutine.resume(co) return {tostring(ok), e}
local co = coroutine.wrap(function() error({err = 'MY error'}) end) local ok, e = pcall(co) return e
local function f(n) if n == 0 then error('deep') end f(n - 1) end f(3)
local t = setmetatable({}, {__index = function(t, k) return k .. '!' end}) return t.hello
local t = setmetatable({}, {__call = function(self, x) return x * 2 end}) return t(21)
return tostring(setmetatable({}, {__tostring = function() return 'me' end}))
return {rawget({a = 1}, 'a'), tostring(rawequal({}, {}))}
return assert(false, 'no')
return assert(nil)
return assert(1)
assert(redis.pcall('incr', 's').err == nil, 'failed')
return cjson.decode(cjson.encode({a = {1, 2, {b = 'c'}}})).a[3].b
return cjson.encode({'a', 'b'})
return cjson.encode({a = cjson.null})
return cjson.decode('null') == cjson.null
return cjson.decode('[1.5, true, false, null, "x"]')
return cjson.encode('\0\1\31 \\')
return cjson.decode('"\\u0041\\n\\/"')
return cjson.encode(redis.call('hgetall', 'h'))
return cjson.decode('{"n": -12.5e2}').n
return cjson.decode(' [ 1 , 2 ] ')
return cjson.encode({{}, {{}}})
return cjson.encode(1e100)
return cjson.encode({[3] = 'c', [1] = 'a'})
return bit.tohex(255) .. bit.tohex(-1, -4)
return redis.sha1hex('')
return redis.status_reply('FINE')
return redis.error_reply('MYCODE with text')
return KEYS[1]
return ARGV
KEYS[1] = 'x' return KEYS[1]
local x <const> = 1
return 'a' .. 1 .. 2.5
return #'abc' + #{1, 2}
return not nil
return 1 == 1.0
return 'a' < 'b'
return 1 < 'b'
return -2^63
return {-0.0}
return 1e15
return {err = 'ERR x', ok = 'y'}
return {ok = 'y', 1, 2}
return {map = {}}
for i = 1, 3 do if i == 2 then return i end end
while true do break end return 'end'
repeat local x = 1 until x == 1 return 'x'
do return 5 end
return (function(...) return select('#', ...) end)(nil, nil)
local s = 0 for i = 10, 1, -3 do s = s + i end return s
return string.byte('A') .. string.char(66, 67)
return {string.byte('hello', 1, -1)}
return ('hello'):sub(-3, -2)
return ('Hello'):lower() .. ('x'):upper() .. ('abc'):reverse()
return redis.call('PING', 'x')
return redis.call('EcHo', 'x')
return redis.call('subscribe', 'x')
return redis.call('select', '99')
return #redis.call('time')
return redis.call('get', 'a\0b')
return '\0\255'
return {1, 2, {3, nil, 5}}
return string.format('%q', '\n\0"')
local r = {} for k, v in pairs({x = 1, y = 2, z = 3, 'one'}) do r[#r + 1] = tostring(k) .. tostring(v) end return r
local co = coroutine.create(function(a) return coroutine.yield(a + 1) end) return {coroutine.resume(co, 1)}
return {bit.band(0xff, 15), bit.bor(1, 2, 4), bit.bxor(5, 1), bit.bnot(0), bit.lshift(1, 31), bit.rshift(-1, 28)}
return {bit.arshift(-16, 2), bit.rol(1, 33), bit.ror(1, 1), bit.bswap(1), bit.tobit(2 ^ 31)}
local ok, e = xpcall(function() redis.call('incr', 's') end, function(e) return type(e) end) return e
local ok, e = xpcall(function() error('a') end, function(e) return e .. '!' end) return {tostring(ok), e}
local ok, e = xpcall(function() local x = nil; x.y = 1 end, function(e) return e end) return e
return {xpcall(function() return 1, 2 end, error)} [2]
local function f(...) return select('#', ...) + redis.call('exists', ...) end return f('s', 'n')
local ok, e = pcall(function() error({code = 5}) end) return e.code
local ok, e = pcall(function() local t = nil; return t.x end) return e
local ok, e = pcall(string.find, 'a', '[') return e
return pcall(nil)
return select(2, pcall(nil))
local a = {} a[1], a[2] = redis.call('get', 's'), redis.call('hget', 'h', 'f') return a
local old = redis.call('getset', 's', 'new') return {old, redis.call('get', 's')}
return redis.call('hset', 'h', 'f', '1', 'odd')
return redis.call('hincrby', 'h', 'f', 10)
return redis.call('expire', 's', 100) + redis.call('persist', 's')
return redis.call('getrange', 's', 0, 1)
return redis.call('append', 's', 'def')
return redis.call('rename', 'none', 'other')
return redis.call('type', 'h')
return redis.call('type', 'h').ok
return redis.call('setnx', 's', 1)
return {redis.call('dbsize'), redis.call('strlen', 's')}
return redis.call('scan', '0', 'COUNT', '100')[1]
""".strip().splitlines()
