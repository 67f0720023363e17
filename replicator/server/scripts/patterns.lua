-- string.find, match, gmatch and gsub. The functions of Lua take a time that grows with a power of the subject's length,
-- and no hook can end them. They are used where that is short; else the matcher here is, which the hook can end.
local look, got, positioned = ...

local error, getmetatable, pcall, select, setmetatable, tonumber = error, getmetatable, pcall, select, setmetatable, tonumber
local tostring, type, unpack = tostring, type, unpack
local byte, char, raw_find, sub = string.byte, string.char, string.find, string.sub
local raw_gmatch, raw_gsub, raw_match = string.gmatch, string.gsub, string.match
local concat, floor, min, max = table.concat, math.floor, math.min, math.max

local FAST_STEPS = 1000000 -- of the matcher of Lua, about 5 ms
local SHORT_STEPS = 10000
local PLAIN_BYTES = 50000000 -- compared by a plain search, the same
local MAX_PATTERN_BYTES = 500 -- for the matcher of Lua, which takes C stack for each item
local MAX_CAPTURES = 32
local SHORT_SUBJECT, LONG_SUBJECT = 100, 100000 -- whose replacements take no time; and too much, also from a plain table

-- The number of steps at most: each quantifier may try every length, and a search every start. One that ends the
-- pattern takes the longest match at once.
local quantifiers = {}
local function steps(pattern, size)
  local count = quantifiers[pattern]
  if not count then
    local _, quantified = raw_gsub(pattern, "[%*%+%-%?]", "")
    local _, others = raw_gsub(pattern, "%%[b1-9]", "")
    count = quantified + others
    if raw_find(pattern, "[%*%+]%)?$") and not raw_find(pattern, "%%.%)?$") then count = count - 1 end
    if byte(pattern) ~= 94 then count = count + 1 end
    quantifiers[pattern] = count
  end
  return (size + 1) ^ count * max(1, #pattern / 4)
end

local function is_fast(pattern, size)
  if #pattern > MAX_PATTERN_BYTES then return false end
  local estimate = steps(pattern, size)
  if estimate > SHORT_STEPS then look() end
  return estimate <= FAST_STEPS
end

-- The matcher: a pattern as a list of items

local function class_end(p, at)
  local c = byte(p, at)
  if not c then return at end
  if c == 37 then -- %
    if at == #p then error("malformed pattern (ends with '%')", 0) end
    return at + 2
  end
  if c ~= 91 then return at + 1 end -- [
  at = at + 1
  if byte(p, at) == 94 then at = at + 1 end
  repeat
    if at > #p then error("malformed pattern (missing ']')", 0) end
    local inner = byte(p, at)
    at = at + 1
    if inner == 37 then at = at + 1 end
  until byte(p, at) == 93
  return at + 1
end

local is_in_class = {
  __index = function(known, c) -- known[1000]: the class as a pattern
    local result = c ~= nil and raw_find(char(c), known[1000]) ~= nil
    if c ~= nil then known[c] = result end
    return result
  end,
}

local function class_of(text) return setmetatable({ [1000] = "^" .. text }, is_in_class) end

local QUANTIFIERS = { [42] = "*", [43] = "+", [45] = "-", [63] = "?" }

local function compile(p)
  p = raw_match(p, "^[^%z]*") -- a zero ends a pattern in Lua 5.1
  local items, at = {}, 1
  local anchored = byte(p) == 94
  if anchored then at = 2 end
  while at <= #p do
    if at % 100 == 0 then look() end
    local c, following = byte(p, at, at + 1)
    if c == 40 then
      local is_position = following == 41
      items[#items + 1] = { kind = is_position and "position" or "open" }
      at = at + (is_position and 2 or 1)
    elseif c == 41 then
      items[#items + 1] = { kind = "close" }
      at = at + 1
    elseif c == 36 and at == #p then
      items[#items + 1] = { kind = "end" }
      at = at + 1
    elseif c == 37 and following == 98 then
      if at + 3 > #p then error("unbalanced pattern", 0) end
      items[#items + 1] = { kind = "balance", from = byte(p, at + 2), to = byte(p, at + 3) }
      at = at + 4
    elseif c == 37 and following == 102 then
      if byte(p, at + 2) ~= 91 then error("missing '[' after '%f' in pattern", 0) end
      local stop = class_end(p, at + 2)
      items[#items + 1] = { kind = "frontier", class = class_of(sub(p, at + 2, stop - 1)) }
      at = stop
    elseif c == 37 and following and following >= 48 and following <= 57 then
      items[#items + 1] = { kind = "back", index = following - 48 }
      at = at + 2
    else
      local stop = class_end(p, at)
      local text = sub(p, at, stop - 1)
      if text == "^" or text == "$" then text = "%" .. text end
      local quantifier = QUANTIFIERS[byte(p, stop)]
      items[#items + 1] = { kind = quantifier or "one", class = class_of(text) }
      at = stop + (quantifier and 1 or 0)
    end
  end
  return items, anchored
end

local function balanced_end(s, at, from, to)
  if byte(s, at) ~= from then return nil end
  local depth = 1
  for i = at + 1, #s do
    local c = byte(s, i)
    if c == to then
      depth = depth - 1
      if depth == 0 then return i + 1 end
    elseif c == from then
      depth = depth + 1
    end
  end
  return nil
end

-- Returns a function of the first index: the index after the match, or nil. `starts` and `stops` get the captures.
local function matcher(s, items, starts, stops)
  local OPEN, POSITION = -1, -2
  local level = 0
  local try

  local function with_capture(at, item, stop)
    if level >= MAX_CAPTURES then error("too many captures", 0) end
    level = level + 1
    starts[level], stops[level] = at, stop
    local found = try(at, item + 1)
    if not found then level = level - 1 end
    return found
  end

  local function close(at, item)
    for index = level, 1, -1 do
      if stops[index] == OPEN then
        stops[index] = at
        local found = try(at, item + 1)
        if not found then stops[index] = OPEN end
        return found
      end
    end
    error("invalid pattern capture", 0)
  end

  local function longest(at, item, class, least)
    local stop = at
    while class[byte(s, stop)] do stop = stop + 1 end
    for i = stop, at + least, -1 do
      local found = try(i, item + 1)
      if found then return found end
    end
    return nil
  end

  local function shortest(at, item, class)
    while true do
      local found = try(at, item + 1)
      if found then return found end
      if not class[byte(s, at)] then return nil end
      at = at + 1
    end
  end

  function try(at, item)
    while true do
      local it = items[item]
      if not it then return at end
      local kind = it.kind
      if kind == "one" then
        if not it.class[byte(s, at)] then return nil end
        at = at + 1
      elseif kind == "*" then return longest(at, item, it.class, 0)
      elseif kind == "+" then return longest(at, item, it.class, 1)
      elseif kind == "-" then return shortest(at, item, it.class)
      elseif kind == "?" then
        if it.class[byte(s, at)] then
          local found = try(at + 1, item + 1)
          if found then return found end
        end
      elseif kind == "open" then return with_capture(at, item, OPEN)
      elseif kind == "position" then return with_capture(at, item, POSITION)
      elseif kind == "close" then return close(at, item)
      elseif kind == "end" then
        if at ~= #s + 1 then return nil end
      elseif kind == "balance" then
        at = balanced_end(s, at, it.from, it.to)
        if not at then return nil end
      elseif kind == "frontier" then
        local before = at == 1 and 0 or byte(s, at - 1)
        if it.class[before] or not it.class[byte(s, at) or 0] then return nil end
      else -- back
        local index = it.index
        if index < 1 or index > level or stops[index] == OPEN then error("invalid capture index", 0) end
        if stops[index] == POSITION then return nil end
        local size = stops[index] - starts[index]
        if sub(s, at, at + size - 1) ~= sub(s, starts[index], stops[index] - 1) then return nil end
        at = at + size
      end
      item = item + 1
    end
  end

  return function(at)
    level = 0
    local stop = try(at, 1)
    return stop, level
  end
end

local function captured(s, starts, stops, index)
  if stops[index] == -1 then error("unfinished capture", 0) end
  if stops[index] == -2 then return starts[index] end
  return sub(s, starts[index], stops[index] - 1)
end

-- The capture of that number, as a replacement needs it; the others may be unfinished.
local function capture_of(s, starts, stops, level, from, stop, index)
  if index == 0 or (index == 1 and level == 0) then return sub(s, from, stop - 1) end
  if index > level then error("invalid capture index", 0) end
  return captured(s, starts, stops, index)
end

local function captures(s, starts, stops, level, from, stop)
  if level == 0 then return { sub(s, from, stop - 1) }, 1 end
  local found = {}
  for index = 1, level do found[index] = captured(s, starts, stops, index) end
  return found, level
end

-- Returns the indices of the first match from `at` on, the captures, and how many they are; or nil.
local function search(s, p, at, cache)
  local items, anchored = cache.items, cache.anchored
  if not items then
    items, anchored = compile(p)
    cache.items, cache.anchored, cache.starts, cache.stops = items, anchored, {}, {}
    cache.match = matcher(s, items, cache.starts, cache.stops)
  end
  repeat
    local stop, level = cache.match(at)
    if stop then return at, stop, level end
    at = at + 1
  until anchored or at > #s + 1
  return nil
end

local function string_argument(n, name, value, given)
  if type(value) == "string" then return value end
  if type(value) == "number" then return tostring(value) end
  error("bad argument #" .. n .. " to '" .. name .. "' (string expected, got " .. got(value, given) .. ")", 0)
end

local function start_of(s, init)
  if init < 0 then return max(1, #s + init + 1) end
  return min(max(1, init), #s + 1)
end

local function plain_find(s, p, at)
  local window = max(1, floor(PLAIN_BYTES / (#p + 1)))
  while at <= #s - #p + 1 do
    look()
    local first, last = raw_find(sub(s, at, at + window + #p - 2), p, 1, true)
    if first then return at + first - 1, at + last - 1 end
    at = at + window
  end
  return nil
end

local function find_or_match(name, ...)
  local s, p, init, plain = ...
  local given = select("#", ...)
  s = string_argument(1, name, s, given > 0)
  p = string_argument(2, name, p, given > 1)
  local at = init == nil and 1 or tonumber(init)
  if not at then error("bad argument #3 to '" .. name .. "' (number expected, got " .. type(init) .. ")", 0) end
  at = start_of(s, at < 0 and -floor(-at) or floor(at))
  return s, p, at, plain
end

local function slow_find(s, p, at)
  local cache = {}
  local from, stop, level = search(s, p, at, cache)
  if not from then return nil end
  if level == 0 then return from, stop - 1 end
  return from, stop - 1, unpack(captures(s, cache.starts, cache.stops, level, from, stop), 1, level)
end

local function slow_match(s, p, at)
  local cache = {}
  local from, stop, level = search(s, p, at, cache)
  if not from then return nil end
  local found, count = captures(s, cache.starts, cache.stops, level, from, stop)
  return unpack(found, 1, count)
end

local function find(...)
  local s, p, at, plain = find_or_match("find", ...)
  if plain or not raw_find(p, "[%^%$%*%+%?%.%(%[%%%-]") then
    if (#s - at + 1) * #p <= PLAIN_BYTES then return raw_find(s, p, at, true) end
    return plain_find(s, p, at)
  end
  return (is_fast(p, #s - at + 1) and raw_find or slow_find)(s, p, at)
end

local function match(...)
  local s, p, at = find_or_match("match", ...)
  return (is_fast(p, #s - at + 1) and raw_match or slow_match)(s, p, at)
end

local function slow_gmatch(s, p)
  local cache, at = {}, 1
  if byte(p) == 94 then p = "%" .. p end -- no anchor here
  return function()
    if at > #s + 1 then return nil end
    local from, stop, level = search(s, p, at, cache)
    if not from then
      at = #s + 2
      return nil
    end
    at = stop == from and stop + 1 or stop
    local found, count = captures(s, cache.starts, cache.stops, level, from, stop)
    return unpack(found, 1, count)
  end
end

local function gmatch(...)
  local s, p = ...
  local given = select("#", ...)
  s = string_argument(1, "gmatch", s, given > 0)
  p = string_argument(2, "gmatch", p, given > 1)
  local fast = is_fast(byte(p) == 94 and "%" .. p or p, #s)
  local following = (fast and raw_gmatch or slow_gmatch)(s, p)
  return function()
    if steps(p, #s) > SHORT_STEPS then look() end
    return positioned(pcall(following))
  end
end

local function replaced(kind, by, s, starts, stops, level, from, stop)
  local value
  if kind == "string" then
    value = raw_gsub(by, "%%(.?)", function(c)
      local digit = tonumber(c)
      return digit and capture_of(s, starts, stops, level, from, stop, digit) or c
    end)
  elseif kind == "table" then
    value = by[capture_of(s, starts, stops, level, from, stop, 1)]
  else
    local found, count = captures(s, starts, stops, level, from, stop)
    value = by(unpack(found, 1, count))
  end
  if not value then return sub(s, from, stop - 1) end
  if type(value) ~= "string" and type(value) ~= "number" then
    error("invalid replacement value (a " .. type(value) .. ")", 0)
  end
  return value
end

local function slow_gsub(s, p, by, limit)
  local at, n, parts = 1, 0, {}
  local kind = type(by)
  if kind == "number" then kind, by = "string", tostring(by) end
  local items, anchored = compile(p)
  local starts, stops = {}, {}
  local try = matcher(s, items, starts, stops)
  while n < limit do
    local stop, level = try(at)
    if stop then
      n = n + 1
      parts[#parts + 1] = replaced(kind, by, s, starts, stops, level, at, stop)
    end
    if stop and stop > at then
      at = stop
    elseif at <= #s then
      parts[#parts + 1] = sub(s, at, at)
      at = at + 1
    else
      break
    end
    if anchored then break end
  end
  parts[#parts + 1] = sub(s, at)
  return concat(parts), n
end

-- A replacement that calls no function of Lua is called without hooks: one of C, or a table whose metatable calls one.
local function with_hook(by, size)
  local called = { by } -- not a name, as Lua has none for it in its errors
  if type(by) == "function" then return function(...) return called[1](...) end end
  if type(by) == "table" and (getmetatable(by) ~= nil or size > LONG_SUBJECT) then
    return function(key) return by[key] end
  end
  return by
end

local REPLACEMENTS = { string = true, number = true, table = true, ["function"] = true }

local function gsub(...)
  local s, p, by, limit = ...
  local given = select("#", ...)
  s = string_argument(1, "gsub", s, given > 0)
  p = string_argument(2, "gsub", p, given > 1)
  if not REPLACEMENTS[type(by)] then error("bad argument #3 to 'gsub' (string/function/table expected)", 0) end
  if limit ~= nil then
    local number = tonumber(limit)
    if not number then error("bad argument #4 to 'gsub' (number expected, got " .. type(limit) .. ")", 0) end
    limit = number < 0 and -floor(-number) or floor(number)
  else
    limit = #s + 1
  end
  if #s > SHORT_SUBJECT then
    look()
    by = with_hook(by, #s)
  end
  return (is_fast(p, #s) and raw_gsub or slow_gsub)(s, p, by, limit)
end

return { find = find, match = match, gmatch = gmatch, gsub = gsub, reset = function() quantifiers = {} end }
