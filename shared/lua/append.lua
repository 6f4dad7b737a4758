-- Append an event to a job's log and announce it, if the writer still owns the job, the number
-- is the next one and the log has not ended. Sent again (its reply was lost), the same append is
-- accepted again and stored once. Returns 1, or 0: fenced off.
local log, claims = KEYS[1], KEYS[2]
local job, owner, seq, event, ends, channel = unpack(ARGV)

if redis.call('HGET', claims, job) ~= owner then return 0 end
local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local last = tail and tonumber(string.match(tail[1], '^%d+')) or 0
if tonumber(seq) ~= last + 1 or (tail and tail[2][6] == '1') then
  local mine = redis.call('XRANGE', log, seq .. '-0', seq .. '-0')[1]
  return (mine and mine[2][2] == event and mine[2][4] == owner) and 1 or 0
end
redis.call('XADD', log, seq .. '-0', 'event', event, 'writer', owner, 'end', ends)
redis.call('PUBLISH', channel, event)
return 1
