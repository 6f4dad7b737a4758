-- Take the job whose turn it is. From here on it is `owner`'s, or nobody's who lives: there is no
-- moment at which a job is neither queued nor claimed. Returns its id, its strikes, its log and how many
-- wait behind it, or nil.
local jobs, claims, order, clock, turns, deadlines, strikes, rq_list = unpack(KEYS)
local owner, logs, log_suffix = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

for _, job in ipairs(redis.call('ZRANGE', order, 0, 31)) do
  local turn = tonumber(redis.call('ZSCORE', order, job))
  local unfinished = redis.call('ZSCORE', jobs, job) and redis.call('HEXISTS', claims, job) == 0
  local overdue = tonumber(redis.call('ZSCORE', deadlines, job) or now) < now
  local listed = not overdue and redis.call('LREM', rq_list, 0, job) > 0
  if listed or not unfinished then redis.call('ZREM', order, job) end
  -- The sweep ends what is overdue, and what is not listed: it was taken out of RQ's queue by hand.
  if listed and unfinished then
    redis.call('HSET', claims, job, owner)
    redis.call('ZREM', deadlines, job)
    redis.call('HDEL', clock, 'since')  -- see hunger.lua
    if turn >= 0 then  -- negative: was put back in front
      local class = math.floor(turn / 2 ^ 40)
      redis.call('HSET', clock, class, string.format('%.0f', turn))
      redis.call('ZREMRANGEBYSCORE', turns, class * 2 ^ 40, '(' .. string.format('%.0f', turn))
    end
    -- Nobody has a job in front of another's any more; the set would keep clients that came once.
    local behind = redis.call('ZCARD', order)
    if behind == 0 then redis.call('DEL', turns) end
    local noted = redis.call('HGET', strikes, job)
    local log = redis.call('XRANGE', logs .. job .. log_suffix, '-', '+')
    return {job, noted and tonumber(string.match(noted, '^%d+')) or 0, log, behind}
  end
end
return nil
